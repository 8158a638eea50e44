import csv
import io
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from adabelief.lab import tasks
from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.commands import app
from adabelief.lab.models.functions import FUNCTIONS
from adabelief.lab.optimizers import METHODS
from adabelief.lab.report import figures, html, latex, report, style, walk_figures, writer
from adabelief.lab.task import Metric
from adabelief.lab.tasks.toy import walk
from tests.lab import synthetic

pytestmark = pytest.mark.xdist_group("report")  # so that one process makes the report, for all of them
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome", "chromium-browser"))), None)


def tables(markdown):
    """Every Markdown table, as rows by header."""
    found = []
    for block in markdown.split("\n\n"):
        if block.startswith("| "):
            header, _, *lines = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines())
            found.append([dict(zip(header, line, strict=True)) for line in lines])
    return found


def text_of(folder, **more):
    verdicts = [*map(judge, experiments(load([folder])))]
    chapters = report.chapters(verdicts, command="adabelief report runs", **more)
    return writer.markdown(report.title_of(verdicts), "", chapters)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two experiments; the first has a diverged and an unfinished run, the second one seed."""
    out = tmp_path_factory.mktemp("runs")
    cifar = {"task": "cifar10", "model": "resnet34"}
    for name, tests in {
        "AdaBelief": (94.0, 95.0),
        "SGD": (93.0, 92.0),
        "Adam": (90.0, 90.0),
        "EAdam": (80.0, 80.0),
    }.items():
        for seed, value in enumerate(tests):
            validation, test = (50.0, 60.0, value + 1, value), (49.0, 59.0, value, value - 0.5)
            synthetic.write(out, synthetic.config(name, seed, **cifar), validation, test, examples=2000)
    broken = synthetic.config("Adam", 2, **cifar)
    synthetic.write(out, broken, (50.0, 10.0), (49.0, 9.0), planned=4, diverged=True, examples=2000)
    waiting = synthetic.config("SGD", 2, **cifar)
    synthetic.write(out, waiting, (50.0,), (49.0,), planned=4, finished=False, examples=2000)
    synthetic.write(out, synthetic.config("AdaBelief", lr=0.01, **cifar), (50.0,) * 4, (50.0,) * 4, examples=2000)
    for name in ("AdaBelief", "AdamW-same-decay"):
        synthetic.write(out, synthetic.config(name))
    return out


@pytest.fixture(scope="module")
def out(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    cone = FUNCTIONS["cone"]
    walks = [walk(cone, optimizer, steps=300) for optimizer in cone.settings()]
    walks += [walk(FUNCTIONS["beale"], optimizer, steps=300) for optimizer in walk_figures.RACERS]
    report.write(folder, load([runs]), walks=walks, walk_limit=300, command="adabelief report runs")
    return folder


STEMS = [f"{name}-{kind}" for name in ("cifar10-resnet34-small", "digits-small") for kind in ("curves", "test", "time")]


def test_every_file_is_written_and_nothing_else(out):
    assert sorted(path.name for path in out.iterdir()) == [
        *("figures", "manifest.json", "report.html", "report.md", "results.csv", "table.tex", "walks.csv")
    ]
    names = [f"{stem}.{suffix}" for stem in (*STEMS, "trajectories", "distances") for suffix in ("png", "svg")]
    assert {path.name for path in (out / "figures").iterdir()} - {"race.mp4"} == {*names, "race.gif", "race.dark.gif"}


def test_figures_show_something(out):
    for path in (out / "figures").glob("*.png"):
        with Image.open(path) as image:
            assert image.width == pytest.approx(style.WIDTH * style.DPI, abs=2)
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    for path in (out / "figures").glob("*.svg"):
        assert path.read_text().startswith("<?xml")
    with Image.open(out / "figures/race.gif") as image:
        assert image.n_frames >= 60
    assert (out / "figures/race.gif").stat().st_size < 2e6


def test_nothing_is_cut_off_by_the_sides_of_a_figure(tmp_path):
    """Of a search, whose labels are long: what is drawn does not touch the border."""
    for optimizer in ("AdaBelief", "Adam", "AdamW"):
        for lr in (0.0003, 0.001, 0.003):
            synthetic.write(tmp_path, synthetic.config(optimizer, task="digits", lr=lr))
    (searched,) = experiments(load([tmp_path]))
    for draw in (figures.curves, figures.dots, figures.times):
        with Image.open(io.BytesIO(draw(judge(searched))["png"])) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.min() < 255
        assert (pixels[:, [0, -1]] == 255).all(), draw.__name__


def test_figures_come_out_the_same(runs, out):
    first = experiments(load([runs]))[0]
    for suffix, content in figures.curves(judge(first)).items():
        assert content == (out / f"figures/cifar10-resnet34-small-curves.{suffix}").read_bytes()


def test_numbers_are_in_their_columns(out):
    adabelief, changed, sgd, adam, eadam = tables((out / "report.md").read_text())[0]
    assert adabelief["optimizer"] == "AdaBelief"
    assert adabelief["test accuracy, %"] == "94.50 ± 0.71"
    assert adabelief["test accuracy, %, last epoch"] == "94.00 ± 0.71"
    assert adabelief["validation accuracy, %"] == "95.50 ± 0.71"
    assert adabelief["seed by seed"] == "94.00, 95.00"
    assert adabelief["best epoch"] == "3, 3"
    assert adabelief["last training loss"] == "0.25"
    assert adabelief["minus AdaBelief's"] == "0"
    assert changed["optimizer"] == "AdaBelief (lr=0.01)"
    assert changed["minus AdaBelief's"] == "−44.50", "one seed: no interval"
    assert "`lr=0.01, " in changed["settings"]
    assert sgd["minus AdaBelief's"].startswith("−2.00 ± ")
    assert sgd["seed by seed"] == "93.00, 92.00, unfinished"
    assert sgd["best epoch"] == "3, 3, –"
    assert (adam["optimizer"], adam["seed by seed"]) == ("Adam †", "90.00, 90.00, diverged")
    assert (adam["test accuracy, %"], adam["minus AdaBelief's"]) == ("90.00 ± 0.00", "–")
    assert re.fullmatch(r"\*\*−14\.50 ± \d\.\d\d\*\*", eadam["minus AdaBelief's"]), "beyond the noise"


def test_every_setting_is_beside_every_number(out, runs):
    settings = {
        name: {f"{k}={v!r}" for k, v in synthetic.config(name).settings.items()}
        for name in METHODS
        if name != "RMSprop"
    }
    for table in tables((out / "report.md").read_text())[:4]:
        for row in table:
            name = re.sub(r" †| \(.*\)", "", row["optimizer"])
            printed = next(row[column] for column in ("settings", "our settings") if column in row)
            assert all(setting in printed for setting in settings[name] if "(" not in row["optimizer"])


def test_what_was_scaled_down_is_said(out):
    text = (out / "report.md").read_text()
    assert "**Otherwise than in the published experiment:** 5,000 training" in text
    assert "**Asked for:** epochs 4 instead of this scale's 8." in text
    assert "**Asked for:** epochs 2 instead of this scale's 20." in text
    assert "resnet34, 10,000 parameters, 300 validation examples, 2,000 test examples, 4 epochs, batches of 128" in text
    assert "divided by 10 after epoch 3" in text


def test_diverged_and_unfinished_runs_are_said(out):
    text = (out / "report.md").read_text()
    assert "**Unfinished, and in no number below:** SGD, seed 2 (1 of 4 epochs)." in text
    assert "**Diverged, and in no mean below:** Adam diverged (seed 2 in epoch 2)." in text


def test_time_to_target(out):
    (table,) = (t for t in tables((out / "report.md").read_text())[:3] if "seconds to target" in t[0] and len(t) > 2)
    rows = {row["optimizer"]: row for row in table}
    # Worst seeds' bests: 95 (AdaBelief), 93 (SGD), 81 (EAdam), 50 (lr=0.01); of the middle two, the worse.
    assert "The target is a validation accuracy of 81.00 %" in (out / "report.md").read_text()
    column = "epochs to target, seed by seed"
    assert [rows[name][column] for name in ("AdaBelief", "SGD", "EAdam")] == ["3, 3"] * 3
    assert rows["AdaBelief"]["seconds to target"] == "6.0"
    assert rows["AdaBelief (lr=0.01)"][column] == "never"
    assert rows["AdaBelief (lr=0.01)"]["seconds to target"] == "– (0 of 1 seeds)"
    assert (rows["SGD"]["`step()`, ms"], rows["SGD"]["whole step, ms"], rows["SGD"]["whole run, s"]) == (
        "1.00",
        "5.00",
        "8.0",
    )


def test_published_numbers_are_beside_ours(out):
    text = (out / "report.md").read_text()
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    rows = {row["optimizer"]: row for row in table}
    assert rows.keys() == {"AdaBelief", "SGD", "Adam †"}, "what has other settings was not published"
    belief = rows["AdaBelief"]
    assert (belief["ours, last epoch"], belief["ours, picked on validation"]) == ("94.00 ± 0.71", "94.50 ± 0.71")
    assert belief["last epoch [1]"] == "95.20", "of another experiment there is no difference to give"
    assert belief["best, picked on test [1]"] == "95.44"
    assert belief["best, picked on test [2]"] == "95.26"
    assert "**Ours is another experiment**" in text
    assert "ours minus theirs" not in text
    assert "1. https://github.com/juntang-zhuang/Adabelief-Optimizer" in text
    assert "**What sets ours apart:** 5,000 training" in text


def test_published_numbers_that_were_read_off_say_so(tmp_path):
    synthetic.write(tmp_path, synthetic.config(task="cifar100", model="vgg11", scale="paper"), (66.0,), (67.0,))
    text = text_of(tmp_path)
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    assert table[0]["last epoch [1]"] == "≈ 67.4 (−0.40)"
    assert "(read off a figure, by eye)" in text
    assert "epochs 1 instead of this scale's 200" in text


def test_notes_on_published_numbers_are_given(tmp_path):
    synthetic.write(tmp_path, synthetic.config("Adam", task="imagenet", scale="paper"), (66.0,), (67.0,))
    text = text_of(tmp_path)
    (table,) = (t for t in tables(text) if "ours, last epoch" in t[0])
    assert table[0]["as reported [1]"] == "63.79 (+3.21) (a)"
    assert "- (a) quoted in Table 2" in text


def test_several_experiments_have_a_section_each(out):
    text = (out / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
    assert headings == [
        *("In short", "cifar10, resnet34, small", "digits, small", "Functions of two variables"),
        *("How to read the numbers", "Whose optimizers these are", "Where it was run", "Once more"),
    ]
    for name in headings[1:3]:
        assert f"[{name}](#{html.slug(name)})" in text


def test_where_it_was_run(out):
    text = (out / "report.md").read_text()
    assert "13 runs on A processor, Linux: 2 cores, 1 thread of torch, device cpu, 1 process. Python 3.12.1, " in text
    assert "adabelief 1.0, torch 2.14.1, commit abc1234. Started by" in text
    assert "```sh\n    adabelief train digits --optimizer all\n    ```" in text


def test_runs_of_several_commits_in_one_place_are_told_together(tmp_path):
    for seed, commit in enumerate(("abc1234", "def5678", "abc1234")):
        synthetic.write(tmp_path, synthetic.config(seed=seed), environment={**synthetic.ENVIRONMENT, "commit": commit})
    (line,) = (line for line in text_of(tmp_path).splitlines() if " on A processor" in line)
    assert line.startswith("- 3 runs on A processor")
    assert "commits abc1234 and def5678. Started by" in line


def test_numbers_on_other_data_are_not_subtracted(tmp_path):
    for folder, changes in (("same", {}), ("other", {"images": "fashion-mnist"})):
        synthetic.write(tmp_path / folder, synthetic.config(task="keras-cnn", scale="paper", **changes))
    same, other = (text_of(tmp_path / folder) for folder in ("same", "other"))
    assert "97.91 (−6.91)" in same
    assert "other data" not in same
    assert "| 97.91 (a) |" in other
    assert "**Ours is on other data** (fashion-mnist, not mnist), so there is no difference to give." in other


def test_a_report_tells_nothing_of_its_writer_s_folders(tmp_path):
    command = [
        "/home/ada/bin/adabelief",
        "train",
        "wgan",
        "--data",
        "/home/ada/cifar",
        "--set",
        "features=/home/ada/a.pt2",
    ]
    synthetic.write(
        tmp_path / "runs",
        synthetic.config(task="wgan", features="/home/ada/a.pt2"),
        environment={**synthetic.ENVIRONMENT, "command": command},
    )
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report /home/ada/runs --out report")
    for name in ("report.md", "report.html", "results.csv", "table.tex"):
        assert "/home/ada" not in (tmp_path / name).read_text()
    text = (tmp_path / "report.md").read_text()
    assert "adabelief train wgan --data cifar --set features=a.pt2\n" in text
    assert "features a.pt2 instead of this scale's random-conv" in text
    assert "```sh\nadabelief report runs --out report\n```" in text


def test_tables_name_what_they_are_of(out):
    with (out / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    with (out / "walks.csv").open() as file:
        assert [row["arrival_step"] for row in csv.DictReader(file)] == ["", "271", "", "", "", "", ""]


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)


def test_page_needs_no_other_file(out):
    text = (out / "report.html").read_text()
    page = Page(text)
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(STEMS) + 3
    for attributes in images:
        assert re.match(r"data:image/(png|gif|svg\+xml);base64,[A-Za-z0-9+/=]{1000}", attributes["src"])
        assert attributes["alt"]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not [a for tag, a in page.tags if "src" in a and tag != "img"]
    assert "url(" not in text
    assert "@import" not in text


def test_page_says_what_the_markdown_says(out):
    page = Page((out / "report.html").read_text())
    words = "".join(page.words)
    found = tables((out / "report.md").read_text())
    for row in found[0]:
        for cell in row.values():
            assert cell.strip("`*") in words
    assert [tag for tag, _ in page.tags].count("table") == len(found)
    anchors = {attributes["id"] for tag, attributes in page.tags if tag in ("h1", "h2", "h3", "figure")}
    links = {a["href"][1:] for tag, a in page.tags if tag == "a" and a["href"].startswith("#")}
    assert links <= anchors


@pytest.mark.skipif(BROWSER is None, reason="no chromium, google-chrome or chrome is installed")
@pytest.mark.parametrize("width", [1280, 400])
def test_page_in_a_browser(out, tmp_path, width):
    """The page itself is as wide as the window: what is wider scrolls in a box of its own."""
    probe = """<script>addEventListener("load", () => {
        const broken = [...document.images].filter(image => !image.naturalWidth).length;
        document.title = `${document.documentElement.scrollWidth} of ${innerWidth}, ${broken} broken`;
    });</script></body>"""
    copy = tmp_path / "report.html"
    copy.write_text((out / "report.html").read_text().replace("</body>", probe))
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        f"--window-size={width},900",
    ]
    options += ["--enable-logging=stderr", "--v=0", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run([BROWSER, *options, copy.as_uri()], capture_output=True, text=True, timeout=60)
    (title,) = re.findall("<title>(.*?)</title>", done.stdout)
    needed, window = map(int, re.findall(r"\d+", title)[:2])
    assert title.endswith(", 0 broken")
    assert 0.8 * width < window <= max(width, 500)  # no narrower window than 500 pixels is to be had of some browsers
    assert needed <= window
    assert "CONSOLE" not in done.stderr


def test_page_escapes_html():
    text = html.page("# a < b\n\n<script>alert(1)</script>", {})
    assert "<script" not in text
    assert "<title>a &lt; b</title>" in text
    assert '<h1 id="a--b">' in text


def test_latex_escapes():
    assert latex.escape("a_b & 5 % of {x} \\ ~ ^ # $") == (
        r"a\_b \& 5 \% of \{x\} \textbackslash{} \textasciitilde{} \textasciicircum{} \# \$"
    )
    assert latex.escape("−1.20 ± 0.50 – ×") == r"$-$1.20 $\pm$ 0.50 -- $\times$"


def test_latex_table(out):
    text = (out / "table.tex").read_text()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 2
    rows = [line.strip() for line in text.splitlines() if line.strip().startswith(("AdaBelief &", "SGD &"))]
    assert rows[0].startswith(
        r"AdaBelief & 94.50 $\pm$ 0.71 & 0 & 94.00 $\pm$ 0.71 & 95.50 $\pm$ 0.71 & 3, 3 & 0, 1 \\"
    )
    assert rows[1].startswith(r"SGD & 92.50 $\pm$ 0.71 & $-$2.00 $\pm$")
    body = re.sub(r"\\begin\{tabular\}\{(\w+)\}", "", text)
    columns = len(re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)[0])
    assert {line.count(" & ") for line in body.splitlines() if line.endswith(r"\\")} == {columns - 1}
    assert r"weight\_decay=0.0005" in text
    assert "Adam diverged (seed 2 in epoch 2)" in text
    plain = text.replace("% \\usepackage{booktabs}\n", "")
    assert not re.search(r"(?<!\\)[%#_]", plain)
    assert plain.isascii()
    bare = re.sub(r"\\[{}]", "", plain)
    assert bare.count("{") == bare.count("}")


def test_a_metric_that_is_better_when_lower(tmp_path, monkeypatch):
    task = replace(tasks.task("digits"), metric=Metric("perplexity", higher_is_better=False))
    monkeypatch.setattr(tasks, "task", lambda name: task)
    for name, value in (("AdaBelief", 60.0), ("SGD", 70.0), ("Adam", 80.0)):
        for seed in (0, 1):
            values = (200.0, value + seed)
            synthetic.write(tmp_path / "runs", synthetic.config(name, seed), values, values, best=2, examples=None)
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report runs")
    results, times = tables((tmp_path / "report.md").read_text())[:2]
    assert results[1]["test perplexity"] == "70.50 ± 0.71"
    assert re.fullmatch(r"\*\*\+10\.00 ± \d\.\d\d\*\*", results[1]["minus AdaBelief's"])
    assert [row["epochs to target, seed by seed"] for row in times] == ["2, 2", "2, 2", "never, never"]


def test_nothing_finished(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config(), (50.0,), (49.0,), planned=4, finished=False)
    report.write(tmp_path / "out", load([tmp_path / "runs"]), command="adabelief report runs")
    assert "Nothing has come to its end." in (tmp_path / "out/report.md").read_text()
    assert list((tmp_path / "out/figures").iterdir()) == []


def test_no_runs_at_all(tmp_path):
    report.write(tmp_path, [], command="adabelief demo")
    assert "Nothing has finished." in (tmp_path / "report.md").read_text()


def test_figures_of_an_earlier_report_go_and_nothing_else(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config())
    report.write(tmp_path, load([tmp_path / "runs"]), command="adabelief report runs")
    (tmp_path / "figures/mine-curves.png").write_text("mine")
    report.write(tmp_path, [], command="adabelief report runs")
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine-curves.png"]


def test_every_optimizer_has_a_look_of_its_own():
    assert style.COLOURS.keys() == METHODS.keys() == style.MARKERS.keys()
    assert len(set(style.COLOURS.values())) == len(METHODS)
    assert len({(style.COLOURS[name], style.MARKERS[name]) for name in METHODS}) == len(METHODS)


def test_what_validation_picks_of_a_search_is_what_stands_out(tmp_path):
    for optimizer in ("AdaBelief", "AdamW"):
        for lr, validation in ((0.0003, 90.0), (0.001, 95.0), (0.003, 92.0)):
            synthetic.write(tmp_path, synthetic.config(optimizer, lr=lr), (80.0, validation))
    looks = style.looks(judge(experiments(load([tmp_path]))[0]))
    assert {label for label, look in looks.items() if look.filled} == {"AdaBelief (lr=0.001)", "AdamW (lr=0.001)"}
    assert looks["AdaBelief (lr=0.001)"].line == "-"
    assert looks["AdaBelief (lr=0.001)"].colour == style.COLOURS["AdaBelief"].lower()


def test_adabelief_is_solid_and_rivals_are_dashed(runs):
    looks = style.looks(judge(experiments(load([runs]))[0]))
    assert [label for label, look in looks.items() if look.line == "-"] == ["AdaBelief"]
    assert not looks["AdaBelief (lr=0.01)"].filled
    assert len(set(looks.values())) == len(looks)


def test_a_run_that_cannot_be_read_is_named_and_costs_nothing_else(tmp_path):
    synthetic.write(tmp_path / "runs", synthetic.config("SGD"))
    folder = synthetic.write(tmp_path / "runs", synthetic.config())
    (folder / "result.json").write_text("[]")
    done = CliRunner().invoke(app, ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 0
    assert f"Left out: {folder / 'result.json'} is damaged: it is no JSON object" in done.stdout
    text = (tmp_path / "out/report.md").read_text()
    assert "## Runs left out" in text
    assert "- digits-small/AdaBelief/seed0/result.json is damaged: it is no JSON object" in text
    assert str(tmp_path) not in text


@pytest.mark.parametrize(
    ("tasks_of", "names", "title"),
    [
        (["digits"], ["AdaBelief", "SGD", "Adam", "Yogi"], "AdaBelief and its rivals on digits (small)"),
        (["digits"], ["AdaBelief"], "AdaBelief on digits (small)"),
        (["digits", "charlm"], ["AdaBelief", "SGD"], "AdaBelief and SGD on charlm (small) and digits (small)"),
        (["rl-sac"], ["SGD"], "SGD on rl-sac (HalfCheetah-v5, small)"),
        (
            ["digits", "charlm", "vit", "sngan"],
            ["AdaBelief"],
            "AdaBelief on charlm (small), digits (small) and 2 more experiments",
        ),
    ],
)
def test_the_title_says_what_a_report_is_of(tmp_path, tasks_of, names, title):
    for task in tasks_of:
        for name in names:
            synthetic.write(tmp_path, synthetic.config(name, task=task))
    assert report.title_of([*map(judge, experiments(load([tmp_path])))]) == title
