"""The wheel and the sdist that others get: built from a copy of the checkout, installed into a folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from adabelief.kernels import cpu

ROOT = Path(__file__).parents[1]
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
STEP = """
import adabelief, torch
from adabelief.kernels import cpu
from adabelief.torch import proof
weight = torch.nn.Parameter(torch.ones(3)); weight.grad = torch.ones(3)
adabelief.AdaBelief([weight], fused=True, lr=0.45).step()  # by lr / beta1
print(adabelief.__file__, [round(x, 4) for x in weight.tolist()], repr(cpu.unavailable() or proof.unavailable()))
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
    return copytree(ROOT, there, ignore=ignore_patterns(*built))


@pytest.mark.skipif(bool(cpu.unavailable()), reason="no C compiler built the kernel here, nor would one now")
@pytest.mark.xdist_group("packaging")
def test_one_wheel_for_every_python_steps(checkout, tmp_path):
    python("-c", BUILD.format("wheel"), str(tmp_path), cwd=checkout)
    (wheel,) = tmp_path.glob("*.whl")
    python_tag, abi, platform = wheel.stem.split("-")[-3:]
    assert (python_tag, abi) == ("py3", "none")
    assert platform != "any"
    libraries = [name for name in zipfile.ZipFile(wheel).namelist() if Path(name).suffix in (".so", ".dll", ".pyd")]
    assert sorted(Path(name).stem for name in libraries) == ["_cpu", "_proof"]

    installed = tmp_path / "installed"
    python(
        "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(installed), str(wheel), cwd=tmp_path
    )
    assert {"py.typed", "lab"} <= {path.name for path in (installed / "adabelief").iterdir()}
    if sys.platform == "linux":
        for library in libraries:
            assert b".symtab" not in (installed / library).read_bytes(), f"{library} is not stripped"
    file, *rest = python("-c", STEP, cwd=tmp_path, PYTHONPATH=str(installed)).split(maxsplit=1)
    assert Path(file).is_relative_to(installed)
    assert rest == ["[0.5, 0.5, 0.5] ''\n"]


@pytest.mark.xdist_group("packaging")
def test_the_sdist_has_all_that_the_checkout_tests_and_tells(checkout, tmp_path):
    python("-c", BUILD.format("sdist"), str(tmp_path), cwd=checkout)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        found = {Path(*Path(name).parts[1:]).as_posix() for name in archive.getnames()}
    wanted = {"CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile", "README.md", "pyproject.toml", "setup.py"}
    for folder in ("src", "tests", "benchmarks", "docs"):
        files = (path for path in (checkout / folder).rglob("*") if path.is_file() and ".egg-info" not in str(path))
        wanted |= {path.relative_to(checkout).as_posix() for path in files if path.suffix not in (".svg", ".so")}
    assert wanted <= found
    assert not [name for name in found if name.endswith((".so", ".pyc"))]
