import errno
import json
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from typer.testing import CliRunner

import adabelief
from adabelief import AdaBelief
from adabelief.lab.commands import app, prepare
from adabelief.settings import SETTINGS


def run(*arguments):
    return CliRunner().invoke(app, arguments)


def words(text):
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_version():
    assert run("--version").stdout.strip() == adabelief.__version__


@pytest.mark.parametrize(
    "command", [["--help"], ["demo", "--help"], ["settings", "--help"], ["train", "--help"], ["report", "--help"]]
)
def test_help(command):
    result = run(*command)
    assert result.exit_code == 0
    assert "Usage" in result.stdout


def test_doctor_says_what_serves_the_cpu_and_why(monkeypatch):
    from adabelief.kernels import cpu

    output = run("doctor").output
    assert re.search(rf"torch +{re.escape(torch.__version__.split('+')[0])}", output)
    assert re.search(r"cpu +fused +compiled C" if not cpu.unavailable() else r"cpu +foreach", output)
    monkeypatch.setattr(cpu, "_library", lambda: "no compiler")
    assert re.search(r"cpu +foreach +no C kernel: no compiler", run("doctor").output)


@pytest.mark.parametrize(
    ("device", "row"),
    [
        (None, "gpu none torch sees none here"),
        ("cuda", "cuda foreach fused=True takes the Triton kernel, which no GPU has run yet"),
        ("mps", "mps foreach no Triton kernel: there is no kernel for mps"),
    ],
)
def test_doctor_says_what_serves_a_gpu(monkeypatch, device, row):
    from adabelief.torch import fused

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: device is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(device))
    monkeypatch.setitem(fused.KERNELS, "cuda", (fused.OnGpu, lambda: ""))
    output = words(run("doctor").output)
    assert row in output
    assert ("Triton" in output) is bool(device)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "there is no 'nothing'; there are toy, digits, cifar10"),
        (["digits", "--optimizer", "Adma"], "--optimizer: there is no 'Adma' here; there are AdaBelief, SGD"),
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


def test_a_full_disk_is_told_and_nothing_is_lost(tmp_path, monkeypatch):
    from adabelief.lab import files

    run("train", "digits", "--scale", "smoke", "--out", str(tmp_path), "--cpu")
    (recorded,) = tmp_path.rglob("result.json")
    before = recorded.read_bytes()

    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(files, "write", full)
    result = run("train", "digits", "--scale", "smoke", "--optimizer", "AdaBelief,SGD", "--out", str(tmp_path), "--cpu")
    assert result.exit_code == 1
    assert "the disk is full" in words(result.output)
    assert recorded.read_bytes() == before


def test_tasks_lists_all():
    output = run("tasks").output
    for name in ("digits", "cifar10", "cifar100", "imagenet", "resnet34", "EAdam"):
        assert name in output


def test_tensorboard(tmp_path):
    result = run("train", "digits", "--scale", "smoke", "--out", str(tmp_path), "--cpu", "--tensorboard")
    assert result.exit_code == 0, result.output
    assert list(tmp_path.rglob("events.out.tfevents*"))


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
    (line,) = (line for line in result.stdout.splitlines() if line.startswith("AdaBelief("))
    optimizer = eval(line, {"AdaBelief": AdaBelief, "model": torch.nn.Linear(2, 2)})
    expected = SETTINGS[task].as_arguments()
    assert {name: optimizer.defaults[name] for name in expected} == expected
    assert words(SETTINGS[task].source) in words(result.stdout)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["settings", "cifra"], ["TASK", "'cifra'", "cifar, imagenet"]),
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


def test_out_that_is_a_file(tmp_path):
    file = tmp_path / "f"
    file.write_text("mine")
    result = run("demo", "--out", str(file))
    assert result.exit_code == 2
    assert "--out" in result.output
    assert "name another" in words(result.output)
    assert file.read_text() == "mine"


@pytest.mark.parametrize(("missing", "arguments"), [("typer", ["--version"]), ("matplotlib", ["demo", "--out", "x"])])
def test_missing_package(missing, arguments, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from adabelief.cli import main; main()"
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.strip().splitlines() == [
        f"adabelief: the command needs {missing}, which is not installed: pip install 'adabelief[lab]'"
    ]


def test_module_is_the_command():
    result = subprocess.run([sys.executable, "-m", "adabelief", "--version"], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip()) == (0, adabelief.__version__)
