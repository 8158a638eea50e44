import re

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from adabelief.lab.analysis.experiments import experiments
from adabelief.lab.analysis.runs import load
from adabelief.lab.analysis.statistics import judge
from adabelief.lab.optimizers import METHODS
from adabelief.lab.report import figures, style
from tests.lab import synthetic

pytestmark = pytest.mark.xdist_group("report")


def luminance(colour):
    """WCAG's relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colour", [style.INK, style.QUIET, *style.COLOURS.values()])
def test_a_colour_is_seen_on_a_dark_page_as_on_a_white_one(colour):
    light = contrast(to_rgb(colour), (1, 1, 1))
    assert contrast(style.on_dark(np.array(to_rgb(colour))), to_rgb(style.PAPER)) >= min(3.0, 0.9 * light)


def test_white_becomes_the_dark_page():
    assert style.on_dark(np.ones(3)) == pytest.approx(to_rgb(style.PAPER))


@pytest.fixture(scope="module")
def svg(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    made = synthetic.experiment(out, {"AdaBelief": [90.0, 91.0], "EAdam": [80.0, 80.5]})
    return figures.dots(judge(made))["svg"].decode()


def test_an_svg_has_no_paper_and_a_rule_for_each_of_its_colours(svg):
    (rules,) = re.findall(r"<style>@media \(prefers-color-scheme: dark\) \{(.*?)\}</style>", svg, re.DOTALL)
    body = svg.replace(rules, "")
    used = set(re.findall(r"(fill|stroke): (#[0-9a-f]{6})", body))
    assert ("fill", style.COLOURS["AdaBelief"].lower()) in used
    assert all(f'[style*="{part}: {colour}"]' in rules for part, colour in used)
    patch = re.search(r'<g id="patch_1">.*?</g>', svg, re.DOTALL)
    assert "fill: none" in patch[0], "the page is its background"


def test_the_style_sheet_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    style.styled(lambda: None)()
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize(
    ("curves", "said"),
    [
        (
            {"AdaBelief": (10.0, 80.0, 90.0, 91.0), "Adam": (20.0, 81.0, 90.5, 91.5), "SGD": (1.0, 1.0, 1.0, 1.0)},
            "epoch off the axis: SGD; others up to epoch 2",
        ),
        (
            {"AdaBelief": (10.0, 80.0, 90.0, 91.0), "Adam": (89.0, 89.0, 90.5, 91.5)},
            "epoch off the axis: parts up to epoch 2",
        ),
        ({"AdaBelief": (90.2, 90.4, 90.0, 91.0), "Adam": (90.0, 90.1, 90.5, 91.5)}, "epoch"),
        (
            {"AdaBelief": (99.0, 71.2, 71.0, 72.0), "Adam": (71.0, 71.0, 71.5, 72.0)},
            "epoch off the axis: parts up to epoch 1",
        ),
    ],
    ids=["behind and early", "early", "nothing", "better before"],
)
def test_the_zoom_says_what_it_hides(tmp_path, monkeypatch, curves, said):
    for name, values in curves.items():
        synthetic.write(tmp_path, synthetic.config(name), values, values)
    labels = []
    monkeypatch.setattr(figures, "label_axes", lambda axes, title, x, y: labels.append(x))
    figures.curves(judge(experiments(load([tmp_path]))[0]))
    assert [" ".join(label.split()) for label in labels] == ["epoch", said, said]


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
