"""The wheel and the sdist that others get: built from a copy of the checkout, installed into a folder of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import adabelief
from adabelief.kernels import cpu

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
STEP = """
import adabelief, sys, torch
from adabelief.kernels import cpu
from adabelief.torch import proof
weight = torch.nn.Parameter(torch.ones(3)); weight.grad = torch.ones(3)
adabelief.AdaBelief([weight], fused=eval(sys.argv[1]), lr=0.45).step()  # by lr / beta1
print(adabelief.__file__, [round(x, 4) for x in weight.tolist()], cpu.unavailable() or proof.unavailable() or "served")
"""


def python(*arguments: str, cwd: Path, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=os.environ | more, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """What a fresh checkout has: nothing that was built in this one."""
    there = tmp_path_factory.mktemp("packaging") / "checkout"
    built = ("*.so", "*.dll", "__pycache__", "*.egg-info", "build", "dist", ".*", "runs", "demo", "bench")
    return shutil.copytree(ROOT, there, ignore=shutil.ignore_patterns(*built))


def wheel_and_step(checkout, folder, fused, **environment):
    """Builds a wheel, installs it and steps once: the wheel, where it was installed, and what the step printed."""
    python("-c", BUILD.format("wheel"), str(folder), cwd=checkout, **environment)
    (wheel,) = folder.glob("*.whl")
    installed = folder / "installed"
    python("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(installed), str(wheel), cwd=folder)
    file, said = python("-c", STEP, str(fused), cwd=folder, PYTHONPATH=str(installed)).split(maxsplit=1)
    assert Path(file).is_relative_to(installed)
    return wheel, installed, said


@pytest.mark.skipif(bool(cpu.unavailable()), reason="no C compiler built the kernel here, nor would one now")
@pytest.mark.xdist_group("packaging")
def test_one_wheel_for_every_python_steps(checkout, tmp_path):
    wheel, installed, said = wheel_and_step(checkout, tmp_path, fused=True)
    python_tag, abi, platform = wheel.stem.split("-")[-3:]
    assert (python_tag, abi) == ("py3", "none")
    assert platform != "any"
    libraries = [path for path in installed.rglob("*") if path.suffix in (".so", ".dll", ".pyd")]
    assert sorted(path.stem for path in libraries) == ["_cpu", "_proof"]
    if sys.platform == "linux":
        for unwanted in (b".symtab", b"libgomp", b"libpython"):  # stripped; other runtimes are the process's own
            assert not [path for path in libraries if unwanted in path.read_bytes()], unwanted
    assert said == "[0.5, 0.5, 0.5] served\n"
    python(str(ROOT / "tests" / "wheel.py"), cwd=tmp_path, PYTHONPATH=str(installed))
    sources = checkout / "src" / "adabelief"
    data = {path for path in sources.rglob("*") if path.is_file() and path.suffix not in (".so", ".dll", ".pyc")}
    assert data <= {sources / path.relative_to(installed / "adabelief") for path in installed.rglob("adabelief/**/*")}
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"adabelief", "bin"}


@pytest.mark.skipif(sys.platform == "win32", reason="CC names no compiler there")
@pytest.mark.xdist_group("packaging")
def test_a_wheel_without_a_compiler_steps_and_says_how_to_get_one_with_a_kernel(checkout, tmp_path):
    shutil.rmtree(checkout / "build", ignore_errors=True)
    wheel, installed, said = wheel_and_step(checkout, tmp_path, fused=None, CC="false")
    assert wheel.name.endswith("-py3-none-any.whl")  # which cibuildwheel refuses
    assert not list(installed.rglob("*.so"))
    assert "[0.5, 0.5, 0.5] it was not compiled" in said
    assert "pip install --no-cache-dir --force-reinstall --no-deps adabelief" in said


@pytest.mark.xdist_group("packaging")
def test_the_sdist_has_all_that_the_checkout_tests_and_tells(checkout, tmp_path):
    python("-c", BUILD.format("sdist"), str(tmp_path), cwd=checkout)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    wanted = {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "SECURITY.md"}
    wanted |= {"pyproject.toml", "setup.py"}
    for folder in ("src", "tests", "benchmarks", "docs"):
        files = (path for path in (checkout / folder).rglob("*") if path.is_file() and ".egg-info" not in str(path))
        wanted |= {path.relative_to(checkout).as_posix() for path in files if path.suffix not in (".svg", ".so")}
    assert wanted <= found
    assert not [name for name in found if name.endswith((".so", ".pyc"))]


@pytest.mark.parametrize(
    ("file", "pattern"), [("CITATION.cff", r"^version: (.+)$"), ("CHANGELOG.md", r"^## \[(.+)\] - (?:unreleased|\d)")]
)
def test_what_tells_the_version_tells_the_packages(file, pattern):
    assert re.search(pattern, (ROOT / file).read_text(), re.MULTILINE)[1] == adabelief.__version__
