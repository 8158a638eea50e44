"""Everything that a GPU must show, in under six minutes: `make gpu`.

    PYTHONPATH=src python3 benchmarks/gpu.py [--minutes 6] [--interpret] [--out bench/gpu]

For a bare machine: Linux, a GPU, torch, Triton and a C compiler; pytest, if its tests are to run; no package index. It
compiles the two C libraries in place, runs the GPU tests on the device, measures steps, captures CUDA graphs and trains
a small GPT. The parts are ordered by worth; each is a process with a limit of its own, so that one that fails or hangs
costs no other, and all of them keep within the minutes. What was found is in gpu.json and gpu.md of the folder, written
anew after every part. The exit code is 0 if every part has run, every check holds and every target is met.

`--interpret` is the dry run, for a machine without a GPU: every part in tiny sizes, on CPU tensors, in Triton's
interpreter. Its numbers are no measurements, and no target is held against them.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

ROOT = Path(__file__).resolve().parents[1]
TESTS = [f"tests/{where}/{name}.py" for name in ("test_gpu", "test_cuda") for where in ("torch", "kernels")]
TESTS += ["tests/torch/test_cuda_codes.py", "tests/torch/test_cuda_large_scale.py", "tests/kernels/test_codes.py"]

Row = dict[str, Any]
Found = tuple[str, str]
"""How a part ended ("done", "failed", "stopped" or "skipped"), and why."""


def extensions() -> list[Any]:
    """The C libraries as setup.py describes them, with their flags; setuptools need not be there."""
    told: dict[str, Any] = {}
    tools = ModuleType("setuptools")
    tools.Extension = lambda name, sources, **options: SimpleNamespace(name=name, sources=sources, **options)
    tools.setup = told.update
    modules = {"setuptools": tools, "setuptools.command": ModuleType("setuptools.command")}
    for name in ("build_ext", "bdist_wheel"):
        command = modules[f"setuptools.command.{name}"] = ModuleType(name)
        setattr(command, name, object)
    with mock.patch.dict(sys.modules, modules):
        runpy.run_path(str(ROOT / "setup.py"))
    return list(told["ext_modules"])


def compile_libraries(run: Run, limit: float) -> Iterator[Row]:
    """Both libraries, in place; in a dry run beside the results, since other tests may be using those in place."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if compiler is None:
        raise RuntimeError("there is no C compiler (cc, gcc, clang, or the one that CC names)")
    for extension in extensions():
        package, _, name = extension.name.rpartition(".")
        target = (run.out if run.interpret else ROOT / "src" / package.replace(".", "/")) / f"{name}.so"
        new, start = target.with_suffix(".new"), time.monotonic()
        flags = ["-shared", "-fPIC", *extension.extra_compile_args]
        arguments = [compiler, *flags, *extension.sources, *getattr(extension, "extra_link_args", []), "-o", str(new)]
        try:
            done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=limit)
            if done.returncode:
                raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()}")
            ctypes.CDLL(str(new))
            for old in target.parent.glob(f"{name}.*so"):  # of whatever Python it was for: it would come first
                old.unlink()
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
        yield {"table": "libraries", "library": target.name, "seconds": time.monotonic() - start}


def tests(run: Run, limit: float) -> Iterator[Row]:
    """The GPU tests, on the device; side by side where pytest-xdist is there. In a dry run one of them, interpreted."""
    if find_spec("pytest") is None:
        raise Skipped("pytest is not installed")
    side_by_side = ["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") and not run.interpret else []
    chosen = ["-k", "other_types", TESTS[0]] if run.interpret else TESTS
    ini = ["-o", "filterwarnings=default", "-o", "addopts="]  # versions of other packages are not what is tested
    log = run.out / "tests.log"
    options = ["-v", "-rfEs", "--tb=short", "-p", "no:cacheprovider", *ini, *side_by_side]
    rc = run.process(["-m", "pytest", *options, *chosen], log, limit, interpreted=False)
    text = log.read_text()
    results = dict(re.findall(r"^(\S*::.+?) (PASSED|FAILED|ERROR|SKIPPED)\b", text, re.MULTILINE))
    results |= {
        name: result for result, name in re.findall(r"^\[gw\d+\] \[ *\d+%\] (\w+) (\S*::.+?) *$", text, re.MULTILINE)
    }
    if not results and rc is not None:
        raise RuntimeError(f"no test has run: {text.strip().splitlines()[-1]}")
    counted = {kind: list(results.values()).count(kind) for kind in ("PASSED", "FAILED", "ERROR", "SKIPPED")}
    yield {
        "table": "tests",
        "check": "the GPU tests pass",
        "found": ", ".join(f"{n} {kind.lower()}" for kind, n in counted.items()),
        "met": rc == 0 and counted["PASSED"] > 0,
    }
    for result, name, why in re.findall(r"^(FAILED|ERROR) (\S*::.+?)(?: - (.*))?$", text, re.MULTILINE):
        yield {"table": "failures", "test": name, "result": result.lower(), "why": why}
    for n, where, why in re.findall(r"^SKIPPED \[(\d+)\] (\S+): (.*)$", text, re.MULTILINE):
        yield {"table": "skipped tests", "tests": int(n), "where": where, "why": why}
    if rc is None:
        raise TimeoutError(f"stopped after {limit:.0f} s; what had run until then counts")


class Part(NamedTuple):
    """A part: its share of the time, in seconds of six minutes, and what it does (None: a part of gpu_parts.py)."""

    seconds: float
    rows: Callable[[Run, float], Iterator[Row]] | None = None


PARTS = {
    "libraries": Part(60, compile_libraries),
    "machine": Part(40),
    "tests": Part(150, tests),
    "step times": Part(120),
    "graphs": Part(45),
    "gpt": Part(60),
}
"""Ordered by worth. They need less than their limits, as a rule: what one leaves, the next ones have."""

NEEDED = ("libraries", "machine")
"""Parts without which no other can run."""


class Skipped(Exception):
    """A part that cannot run here, and why."""


class Run:
    """A run of all parts: where its results go and how much time is left."""

    def __init__(self, out: Path, minutes: float, interpret: bool) -> None:
        self.out, self.minutes, self.interpret = out.resolve(), minutes, interpret
        self.start = time.monotonic()
        self.parts: list[dict[str, Any]] = []
        self.rows: list[Row] = []
        self.out.mkdir(parents=True, exist_ok=True)

    @property
    def left(self) -> float:
        """Seconds until the minutes are over, less what it takes to write the results."""
        return 60 * self.minutes - (time.monotonic() - self.start) - 2

    def process(self, arguments: list[str], log: Path, limit: float, *, interpreted: bool) -> int | None:
        """Runs Python with the package's sources; returns its exit code, or None if it had to be stopped."""
        paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        if interpreted:
            environment["TRITON_INTERPRET"] = "1"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # its own processes too
                    process.wait()

    def of_tensors(self, name: str, limit: float) -> Iterator[Row]:
        """The rows of a part of gpu_parts.py, also of one that fails or has to be stopped."""
        log = self.out / f"{name.replace(' ', '-')}.log"
        arguments = [str(ROOT / "benchmarks" / "gpu_parts.py"), name, *(["--interpret"] if self.interpret else [])]
        rc = self.process(arguments, log, limit, interpreted=self.interpret)
        lines = log.read_text().splitlines()
        yield from (json.loads(line) for line in lines if line.startswith('{"table"') and line.endswith("}"))
        if rc is None:
            raise TimeoutError(f"stopped after {limit:.0f} s; what it had found until then counts")
        if rc:
            raise RuntimeError(lines[-1] if lines else f"exit code {rc}")
        log.unlink()

    def part(self, name: str, part: Part) -> None:
        """Runs a part within its limit and the time that is left."""
        limit, start, rows = min(self.left, part.seconds * self.minutes / 6), time.monotonic(), 0
        failed = [done["part"] for done in self.parts if done["part"] in NEEDED and done["status"] != "done"]
        status, reason = "done", ""
        try:
            if failed:
                raise Skipped(f"it needs {failed[0]}")
            if limit < min(10, part.seconds * self.minutes / 12):
                raise Skipped("no time was left")
            for row in part.rows(self, limit) if part.rows else self.of_tensors(name, limit):
                self.rows.append(row)
                rows += 1
        except Skipped as skipped:
            status, reason = "skipped", str(skipped)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            status, reason = "stopped", str(error)
        except Exception as error:  # no part stops the others
            status, reason = (
                "failed",
                f"{type(error).__name__}: {error}" if not isinstance(error, RuntimeError) else str(error),
            )
        seconds = round(time.monotonic() - start, 1)
        self.parts.append({"part": name, "status": status, "seconds": seconds, "limit": round(limit), "why": reason})
        print(f"{name}: {status} in {seconds} s. {reason}".strip(), flush=True)

    def results(self) -> dict[str, Any]:
        """Everything found so far, as gpu.json has it."""
        targets = [held(target, self.rows, self.interpret) for target in TARGETS]
        checks = [{key: row[key] for key in ("check", "found", "met")} for row in self.rows if "met" in row]
        done = [part["part"] for part in self.parts if part["status"] == "done"]
        return {
            "interpreted": self.interpret,
            "seconds": round(time.monotonic() - self.start, 1),
            "passed": done == list(PARTS)
            and all(check["met"] for check in checks)
            and (self.interpret or all(target["status"] == "met" for target in targets)),
            "targets": targets,
            "checks": checks,
            "parts": self.parts,
            "rows": self.rows,
        }

    def write(self) -> dict[str, Any]:
        """Writes gpu.json and gpu.md and returns what is in them."""
        results = self.results()
        (self.out / "gpu.json").write_text(json.dumps(results, indent=1) + "\n")
        (self.out / "gpu.md").write_text(markdown(results))
        return results


class Target(NamedTuple):
    """What our steps through the kernel have to reach in a column of the table of step times."""

    what: str
    column: str
    bound: float
    least: bool
    """Whether the bound is the least that is allowed, instead of the most."""
    where: Callable[[Row], bool]


TARGETS = [
    Target(
        "share of the bandwidth of a device-to-device copy, from 32 M parameters on",
        *("share of a copy's bandwidth", 0.85, True, lambda row: row["elements"] >= 32e6),
    ),
    Target("ms on the host for 1,000 tensors", "host ms", 0.3, False, lambda row: row["tensors"] == 1000),
    Target("time of a step / AdamW fused", "x AdamW fused", 1.0, False, lambda row: True),
]
HELD = ("AdaBelief fused", "AdaBelief fused, rectify", "AdaBeliefW fused")
"""Not Ranger, which reads gradients twice and has slow weights besides."""

NOT_MEASURED = "interpreted, not a measurement"


def held(target: Target, rows: list[Row], interpret: bool) -> Row:
    """A target beside the worst that was measured."""
    ours = [row for row in rows if row["table"] == "steps" and row["step"] in HELD and target.where(row)]
    required = f"{'at least' if target.least else 'at most'} {target.bound:g}"
    answer: Row = {"target": target.what, "required": required, "worst": None, "where": ""}
    if interpret or not ours:
        return answer | {"status": NOT_MEASURED if interpret else "not measured"}
    worst = (min if target.least else max)(ours, key=lambda row: row[target.column])
    value = worst[target.column]
    met = value >= target.bound if target.least else value <= target.bound
    where = f"{worst['step']}: {worst['case']}, {worst['dtype']}"
    return answer | {"worst": value, "where": where, "status": "met" if met else "missed"}


def markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    title = f"# On a GPU\n\n**{NOT_MEASURED.capitalize()}**: a dry run." if results["interpreted"] else "# On a GPU"
    verdict = "Every part has run, and all that was held is met." if results["passed"] else "Not everything has passed."
    tables = {"Targets": results["targets"], "Checks": results["checks"], "Parts": results["parts"]}
    for row in results["rows"]:
        if "met" not in row or len(row) > 4:
            tables.setdefault(row["table"].capitalize(), []).append({k: v for k, v in row.items() if k != "table"})
    sections = [f"## {name}\n\n{table(rows)}" for name, rows in tables.items() if rows]
    notes = (
        "`ms` is from the call until all is done, `device ms` the device's part of it, `host ms` the host's: all "
        "are medians. The limit is a copy of as many bytes as our step moves, with float32 state; the share of its "
        "bandwidth is that of the bytes that each step moves itself, which are given for a parameter, as are those of "
        "the state that it keeps. Of bf16 parameters AdamW has bf16 state."
    )
    return "\n\n".join([title, f"{verdict} {results['seconds']} s.", *sections, notes]) + "\n"


def table(rows: list[Row]) -> str:
    """Rows of whatever columns as a table."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["--"] * len(columns), *([cell(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    """Three digits of a number, and anything else so that it stays within its cell."""
    if isinstance(value, bool):
        return "met" if value else "missed"
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else " ".join(str(value).replace("|", "\\|").split())


def main() -> int:
    """Runs all parts; see the first lines of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="after which it ends by itself (default 6)")
    parser.add_argument("--interpret", action="store_true", help="a dry run, without a GPU")
    parser.add_argument("--out", type=Path, default=Path("bench/gpu"), help="folder (default bench/gpu)")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error(f"--minutes must be above 0, got {arguments.minutes:g}")
    run = Run(arguments.out, arguments.minutes, arguments.interpret)
    for name, part in PARTS.items():
        run.part(name, part)
        results = run.write()
    print(f"\n{markdown(results)}\nWritten to {run.out}.")
    return 0 if results["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
