"""Runs the kernels' tests on libraries that were compiled with ASan and UBSan, where the compiler has them.

python tests/sanitized.py [TEST ...]: every test file in a process of its own, which ends at the first report.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/kernels/test_cpu.py",
    "tests/torch/test_plan.py",
    "tests/torch/test_update.py",
    "tests/torch/test_soak.py",
)
FLAGS = "-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -g"
LOADED = """
import os, torch, adabelief
assert adabelief.__file__.startswith(os.environ["PYTHONPATH"]), adabelief.__file__
adabelief.AdaBelief([torch.ones(1)], fused=True)  # which says why where there is no kernel
"""


def main(tests: list[str]) -> int:
    preloaded = [library(name) for name in ("libasan.so", "libstdc++.so.6")]
    if sys.platform != "linux" or not all(preloaded):
        print("Not run: there is no gcc here that has ASan and UBSan.")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        package = build(Path(folder))
        # The interpreter is not compiled with ASan, so that it has to be there before everything else; it needs to find
        # C++'s exceptions, which torch throws. What Python never gives back at its end is no leak of the kernels.
        environment = os.environ | {
            "PYTHONPATH": str(package),
            "LD_PRELOAD": " ".join(preloaded),
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "OMP_NUM_THREADS": "2",
        }
        subprocess.run([sys.executable, "-c", LOADED], env=environment, check=True)
        failed = [test for test in tests or TESTS if run(test, environment)]
    print("\n".join(f"failed: {test}" for test in failed) or "The sanitizers found nothing.")
    return bool(failed)


def library(name: str) -> str:
    """The compiler's library of this name; empty where it has none."""
    try:
        path = subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return path.strip() if os.path.isabs(path) else ""


def build(folder: Path) -> Path:
    """The whole package with its libraries, built aside from the sources; returns the folder to import it from."""
    environment = os.environ | {"CFLAGS": FLAGS, "LDFLAGS": FLAGS}
    command = [sys.executable, "setup.py", "--quiet", "build", "--build-base", str(folder)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return next(folder.glob("lib*"))


def run(test: str, environment: dict[str, str]) -> int:
    print(f"== {test}", flush=True)
    # without capturing: what a sanitizer writes before it ends the process is to be seen
    command = [sys.executable, "-m", "pytest", "-q", "--capture=no", "-p", "no:cacheprovider", test]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
