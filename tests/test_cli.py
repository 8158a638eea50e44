import json
import os
import platform
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

import adabelief.optax
from adabelief import AdaBelief
from adabelief.kernels import cpu
from adabelief.lab.arguments import prepare
from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.commands import app
from adabelief.settings import SETTINGS

SOURCES = Path(adabelief.__file__).parent


def run(*arguments):
    return CliRunner().invoke(app, arguments)


def words(text):
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_version():
    assert run("--version").stdout.strip() == adabelief.__version__


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["demo", "--help"],
        ["settings", "--help"],
        ["train", "--help"],
        ["tune", "-h"],
        ["compare", "--help"],
        ["report", "-h"],
        ["-h"],
    ],
)
def test_help(command):
    result = run(*command)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_doctor_says_what_serves_the_cpu_and_why(monkeypatch):
    output = run("doctor").output
    assert re.search(rf"torch +{re.escape(torch.__version__.split('+')[0])}", output)
    assert re.search(r"cpu +fused +compiled C" if not cpu.unavailable() else r"cpu +foreach", output)
    monkeypatch.setattr(cpu, "_library", lambda: "no compiler")
    assert re.search(r"cpu +foreach +no C kernel: no compiler", run("doctor").output)


@pytest.mark.parametrize(("threads", "said"), [(1, "1 thread$"), (2, "2 threads$")])
def test_doctor_counts_the_threads_of_a_step(threads, said):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    output = run("doctor").output
    torch.set_num_threads(before)
    assert re.search(rf"cpu +.*, {said}" if not cpu.unavailable() else "foreach", output, re.M)


def test_doctor_tells_the_machine_and_no_device_that_is_not_there():
    output = run("doctor").output
    for word in (platform.python_version(), platform.system(), "processor", "optax", "jax", "keras"):
        assert word in output
    devices = re.findall(r"^(cpu|cuda|mps|xpu)\b", output.partition("implementation")[2], re.M)
    assert devices == ["cpu"] + [torch.accelerator.current_accelerator().type] * torch.accelerator.is_available()
    assert len(re.findall("^GPU", output, re.M)) == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("fused", "said"), [(True, "cuda +fused +Triton"), (False, "cuda +foreach +Triton with fused=True")]
)
def test_doctor_says_what_serves_a_gpu_by_default(fused, said, monkeypatch):
    from adabelief.torch import base, launch

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch, "zeros", lambda *size, device=None: torch.ones(*size))
    monkeypatch.setattr(launch, "unserved", lambda device: None)
    monkeypatch.setattr(base, "wanted", lambda group: fused)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: "A [big] GPU")
    output = run("doctor").output
    assert re.search(said, output)
    assert re.search(r"GPU 0 +A \[big\] GPU", output)


FOREIGN = ["[rl]", "/data/[big]/x", "[/x]", "[red]x", ":x:"]


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "digits", "--optimizer"],
        ["train", "cifar10", "--data"],
        ["report"],
        ["train"],
        ["train", "digits", "--model"],
    ],
    ids=" ".join,
)
def test_errors_say_what_was_given_and_go_to_stderr(arguments, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, text)
    assert result.exit_code == 1
    assert text in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("text", ["pip install 'adabelief[rl]'", *FOREIGN])
@pytest.mark.parametrize("kind", [ValueError, FileNotFoundError])
def test_messages_of_others_are_printed_as_they_are(kind, text, monkeypatch):
    from adabelief.lab import tasks

    def refuse(name):
        raise kind(text)

    monkeypatch.setattr(tasks, "task", refuse)
    result = run("train", "digits")
    assert result.stderr == f"Error: {text}\n"


@pytest.mark.parametrize("text", [text.strip("/") for text in FOREIGN])
def test_folders_are_printed_as_they_are(text, tmp_path, monkeypatch):
    from adabelief.lab.analysis import runs
    from adabelief.lab.report import report

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "load", lambda folders, skip: [])
    monkeypatch.setattr(report, "write", lambda *arguments, **more: None)
    assert run("report", text, "--out", text).stdout == f"The report: {Path(text, 'report.html')}\n"


def test_every_console_prints_text_as_it_is():
    files = [path for path in SOURCES.rglob("*.py") if path.name != "console.py"]
    assert not [str(path) for path in files if re.search(r"\bConsole\(|\brich import print\b", path.read_text())]
    columns = [match for path in files for match in re.findall(r"TextColumn\([^()]*\{[^()]*\)", path.read_text())]
    assert all("markup=False" in column for column in columns)


def test_names_match_in_any_case(tmp_path):
    choices = ["--optimizer", "adabelief,sgd,ADABELIEF", "--scale", "Smoke", "--precision", "NO", "--epochs", "1"]
    result = run("train", "DIGITS", *choices, "--out", str(tmp_path), "--cpu")
    assert result.exit_code == 0, result.output
    assert {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("result.json")} == {
        f"digits-smoke/{name},epochs=1/seed0" for name in ("AdaBelief", "SGD")
    }


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("adabelief train ci", ["cifar10", "cifar100", "cifar10-cnn"]),
        ("adabelief settings im", ["imagenet"]),
        ("adabelief train cifar10 --model resnet34", ["resnet34"]),
        ("adabelief train cifar10 --scale s", ["smoke", "small"]),
        ("adabelief doc", ["doctor"]),
    ],
)
def test_the_shell_completes(line, expected):
    words = line.split()
    asked = {"_ADABELIEF_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "adabelief"], env=os.environ | asked, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.split() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no 'nothing' here; there are toy, digits, cifar10"),
        (["CIFR10"], "rl-atari; did you mean cifar10?"),
        (["digits", "--optimizer", "Adma"], "--optimizer: there is no 'Adma' here; there are AdaBelief, SGD"),
        (["digits", "--optimizer", "adma"], "AdamW-same-decay, all; did you mean Adam?"),
        (["digits", "--scale", "huge"], "--scale: there is no 'huge' here; there are smoke, small, paper"),
        (["digits", "--set", "speed=3"], "AdaBelief of adabelief has no argument speed"),
        (["cifar10", "--data", "nowhere"], "'nowhere' is no folder; name one that is there, with --data FOLDER"),
        (["imagenet"], "imagenet cannot be downloaded: name a folder that has train/ and val/, with --data FOLDER"),
    ],
)
def test_train_says_what_is_wrong(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("train", *arguments)
    assert result.exit_code == 1
    assert f"Error: {message}" in words(result.output) or message in words(result.output)
    assert "Traceback" not in result.output


def test_tasks_is_a_table():
    lines = run("tasks").stdout.splitlines()
    assert max(map(len, lines)) <= 80
    first = [line.split()[0] for line in lines if line[:1].strip()]
    assert first == ["task", *CATALOGUE, "adabelief"]
    assert len(lines) <= 2.5 * len(CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_task_in_full(name):
    result = run("tasks", name.upper())
    assert result.exit_code == 0, result.output
    assert max(map(len, result.stdout.splitlines())) <= 80
    entry, said = CATALOGUE[name], words(result.stdout)
    for text in (entry.summary, entry.data, ", ".join(entry.models), "smoke", "--optimizer AdaBelief", "batch_size"):
        assert words(text) in said
    assert f"adabelief[{entry.extra}]" in said or entry.extra == "lab"


def test_a_task_has_the_scales_of_every_model():
    said = words(run("tasks", "cifar10").stdout)
    for model, channels in (("vgg11", "0.5"), ("resnet34", "0.125"), ("densenet121", "0.125")):
        assert re.search(rf"--model {model} .* small .*? {re.escape(channels)} of the channels", said)


def test_tensorboard_and_probe(tmp_path):
    result = run("train", "digits", "--scale", "smoke", "--out", str(tmp_path), "--cpu", "--tensorboard", "--probe")
    assert result.exit_code == 0, result.output
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert list(tmp_path.rglob("probe.jsonl"))


def test_settings_lists_all():
    result = run("settings")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    for setting in SETTINGS.values():
        (line,) = (line for line in lines if line.split()[:1] == [setting.task])
        assert str(setting.lr) in line
        assert str(setting.eps) in line
        assert str(setting.betas) in line
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("task", SETTINGS)
def test_settings_line_is_python(task):
    result = run("settings", task)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("AdaBelief(model"))
    optimizer = eval(line, {"AdaBelief": AdaBelief, "model": torch.nn.Linear(2, 2)})
    (line,) = (line for line in lines if re.match(r"adabeliefw?\(", line))
    assert eval(line, vars(adabelief.optax)).update
    (line,) = (line for line in lines if line.startswith("AdaBelief(learning_rate="))
    assert eval(line, {"AdaBelief": dict}) == SETTINGS[task].as_arguments("keras")
    expected = SETTINGS[task].as_arguments()
    assert {name: optimizer.defaults[name] for name in expected} == expected
    assert words(SETTINGS[task].source) in words(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["settings", "cifra"], ["TASK", "'cifra'", "cifar, imagenet", "did you mean cifar?"]),
        (["settings", "[/x]"], ["TASK", "'[/x]'"]),
        (["tasks", "[rl]"], ["TASK", "'[rl]'"]),
        (["trian"], ["Did you mean 'train'?"]),
        (["demo", "--seeds", "abc"], ["--seeds", "'abc'", "write, say, 0,1,2"]),
        (["demo", "--seeds", "1,1"], ["--seeds", "'1,1'", "different"]),
        (["demo", "--seeds", ""], ["--seeds", "''"]),
        (["demo", "--seeds", "-1"], ["--seeds", "'-1'"]),
        (["demo", "--seeds", str(2**63)], ["--seeds"]),
        (["demo", "--epochs", "0"], ["--epochs", "'0'", "from 1"]),
        (["demo", "--epochs", "many"], ["--epochs", "'many'", "write, say, 20"]),
        (["demo", "--speed", "9"], ["--speed"]),
        (["fly"], ["'fly'"]),
        (["train", "digits", "--set", "lr"], ["--set", "'lr'", "write, say, lr=3e-4"]),
        (["train", "digits", "--epochs", "0"], ["--epochs", "'0'"]),
    ],
)
def test_wrong_arguments_are_named(arguments, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    for word in named:
        assert word in words(result.output)
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_name_set_twice_is_a_run_for_each_value(tmp_path):
    grid = ["--set", "lr=1e-3", "--set", "lr=3e-3", "--set", "eps=1e-12"]
    result = run("train", "digits", "--scale", "smoke", "--epochs", "1", *grid, "--cpu", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    found = [json.loads(path.read_text())["settings"] for path in sorted(tmp_path.glob("*/*/*/config.json"))]
    assert [(settings["lr"], settings["eps"]) for settings in found] == [(1e-3, 1e-12), (3e-3, 1e-12)]
    table = result.stdout.partition("Accuracy (%)")[2].partition("adabelief report")[0]
    assert max(map(len, table.splitlines())) <= 80
    assert {"eps=1e-12,", "lr=0.001", "lr=0.003"} <= set(table.split())


def test_many_may_begin_in_one_folder_at_once(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(prepare, [tmp_path / "runs"] * 400))
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.parametrize("name", ["f", "[rl]", "x]"])
def test_out_that_is_a_file(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = Path(name)
    file.write_text("mine")
    result = run("demo", "--out", name)
    assert result.exit_code == 2
    assert "--out" in result.output
    assert repr(name) in result.output
    assert "name another" in words(result.output)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("typer", ["--version"], "cli"),
        ("rich", ["settings"], "cli"),
        ("matplotlib", ["demo", "--out", "x"], "lab"),
        ("torch", ["train", "digits"], "lab"),
    ],
)
def test_missing_package(missing, arguments, extra, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from adabelief.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines() == [
        f"adabelief: the command needs {missing}, which is not installed: pip install 'adabelief[{extra}]'"
    ]


def test_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "adabelief", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, adabelief.__version__)
