"""A day of training in minutes: processes are killed, and the run resumes on more or fewer of them.

    python benchmarks/day.py [--steps 300] [--seeds 3] [--kills 4] [--out day]

A small GPT learns the embedded book, under FSDP2 on two processes (gloo, CPUs), with AdaBeliefW and 8 bits of state.
First undisturbed, once for each seed: how far their last validation losses are apart is the noise. Then the first seed
again, disturbed: at random steps a random process is killed (SIGKILL), the others have to end by themselves, and the
run resumes on 1, 2 or 3 processes from the newest asynchronous checkpoint; on the way the state goes to other bits. All
runs change the learning rate. The exit code is 0 if the disturbed run ends within the noise: no further from the mean
of the undisturbed ones than twice their standard deviation.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import adabelief

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 90
"""Seconds in which those that were not killed have to end."""

Row = dict[str, str]


def start(folder: Path, processes: int, seed: int, steps: int, changing: bool) -> list[subprocess.Popen[bytes]]:
    """Processes that train until the end, from the newest checkpoint in the folder."""
    meeting = folder / f"meeting-{time.time_ns()}"
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks/day_worker.py")]
    command += f"--processes {processes} --seed {seed} --steps {steps} --folder {folder} --meeting {meeting}".split()
    command += ["--changing"] if changing else []
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (folder / "errors.txt").open("ab") as errors:
        return [
            subprocess.Popen([*command, "--rank", str(rank)], env=environment, stderr=errors)
            for rank in range(processes)
        ]


def rows(folder: Path) -> list[Row]:
    """What a run has written so far."""
    path = folder / "losses.csv"
    return list(csv.DictReader(path.open())) if path.exists() else []


def until(folder: Path, running: list[subprocess.Popen[bytes]], step: int | None) -> None:
    """Waits for a step to be taken, or for the end; raises RuntimeError if a process fails."""
    while any(process.poll() is None for process in running):
        if any(process.returncode for process in running):
            break
        if step is not None and (found := rows(folder)) and int(found[-1]["step"]) >= step:
            return
        time.sleep(0.2)
    if any(process.returncode for process in running):
        end(running)
        raise RuntimeError(f"a process failed:\n{(folder / 'errors.txt').read_text()[-2000:]}")


def end(running: list[subprocess.Popen[bytes]]) -> None:
    """Ends what runs."""
    for process in running:
        process.kill()
        process.wait()


def undisturbed(folder: Path, seed: int, steps: int) -> list[Row]:
    """The losses of a run that nobody disturbs."""
    folder.mkdir()
    until(folder, start(folder, 2, seed, steps, changing=False), None)
    return rows(folder)


def disturbed(folder: Path, steps: int, kills: int) -> tuple[list[Row], list[dict[str, Any]]]:
    """Every line that the run wrote (steps after a checkpoint twice), and what happened to it."""
    folder.mkdir()
    chance, events, processes = random.Random(0), [], 2
    for kill in range(kills):
        begin, end_of_it = steps * kill // kills, steps * (kill + 1) // kills
        at = chance.randrange((begin + end_of_it) // 2, end_of_it - 2)
        running = start(folder, processes, 0, steps, changing=True)
        until(folder, running, at)
        victim = chance.randrange(processes)
        os.kill(running[victim].pid, signal.SIGKILL)
        killed, others = time.monotonic(), [process for process in running if process is not running[victim]]
        for process in others:
            process.wait(timeout=PATIENCE)
        waited = time.monotonic() - killed
        end(running)
        chosen = [1, 3, 2][kill % 3]
        step = int(rows(folder)[-1]["step"])
        events.append({"step": step, "killed": victim, "of": processes, "waited": waited, "then": chosen})
        print(events[-1], flush=True)
        processes = chosen
    until(folder, start(folder, processes, 0, steps, changing=True), None)
    return rows(folder), events


def draw(runs: dict[str, list[Row]], events: list[dict[str, Any]], path: Path) -> None:
    """The losses of all runs, with what happened to the disturbed one."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, its in runs.items():
        last = {int(row["step"]): float(row["loss"]) for row in its}  # of a step that was taken twice, the second
        colour = "#D55E00" if name == "disturbed" else "#999999"
        axes.plot(
            list(last), list(last.values()), color=colour, lw=1, label=name, zorder=2 if name == "disturbed" else 1
        )
    for event in events:
        axes.axvline(event["step"], color="#0072B2", lw=0.8, ls="--")
        axes.annotate(
            f"killed {event['killed']} of {event['of']}, then {event['then']}",
            (event["step"], axes.get_ylim()[1]),
            rotation=90,
            va="top",
            ha="right",
            fontsize=7,
        )
    axes.set(xlabel="step", ylabel="training loss (nats a character)")
    axes.legend()
    figure.savefig(path, dpi=150)


def machine() -> str:
    """What it ran on, without a name."""
    told = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in told.read_text().splitlines() if "model name" in line]
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), Python {platform.python_version()}"


def report(runs: dict[str, list[Row]], events: list[dict[str, Any]], minutes: float) -> tuple[str, bool]:
    """The page, and whether the disturbed run is within the noise."""
    last = {name: float(its[-1]["validation"]) for name, its in runs.items()}
    others = [x for name, x in last.items() if name != "disturbed"]
    mean, deviation = statistics.mean(others), statistics.stdev(others)
    away = last["disturbed"] - mean
    within = abs(away) <= 2 * deviation
    lines = [
        "# A run that is killed, resumed and changed on the way",
        "",
        f"`{' '.join(['python', 'benchmarks/day.py', *sys.argv[1:]])}`, {minutes:.0f} minutes on {machine()}, "
        f"shared with other work; torch {torch.__version__}, adabelief {adabelief.__version__}.",
        "",
        "A small GPT on the embedded book, AdaBeliefW with `state_bits=8`, FSDP2 on gloo; `benchmarks/day.py` says",
        "what is done. Losses of all steps are in [losses.csv](losses.csv).",
        "",
        "![losses](losses.png)",
        "",
        "| run | last validation loss |",
        "|---|---|",
        *[f"| {name} | {x:.4f} |" for name, x in last.items()],
        "",
        f"Undisturbed: {mean:.4f} ± {deviation:.4f} (standard deviation, {len(others)} seeds). The disturbed run, "
        f"of the first seed, ends {away:+.4f} from that mean: {'within' if within else 'NOT within'} two deviations.",
        "",
        "| at step | killed | the others had ended after | resumed on |",
        "|---|---|---|---|",
        *[
            f"| {e['step']} | {e['killed']} of {e['of']} processes | {e['waited']:.1f} s | {e['then']} |"
            if e["of"] > 1
            else f"| {e['step']} | the only one | - | {e['then']} |"
            for e in events
        ],
        "",
        "State in the disturbed run: 8 bits, from a third of the steps on (16, 8), from half of them 32, from two",
        "thirds 8 again.",
    ]
    return "\n".join(lines) + "\n", within


def main() -> int:
    """Runs all, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--out", type=Path, default=Path("day"))
    arguments = parser.parse_args()
    for name, least in {"steps": 40, "seeds": 2, "kills": 0}.items():
        if getattr(arguments, name) < least:
            parser.error(f"--{name} {getattr(arguments, name)}: give at least {least}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    with TemporaryDirectory() as temporary:
        runs = {}
        for seed in range(arguments.seeds):
            runs[f"seed {seed}"] = undisturbed(Path(temporary, str(seed)), seed, arguments.steps)
            print(f"seed {seed}: {runs[f'seed {seed}'][-1]['validation']}", flush=True)
        runs["disturbed"], events = disturbed(Path(temporary, "disturbed"), arguments.steps, arguments.kills)
    with (arguments.out / "losses.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["run", *runs["disturbed"][0]])
        writer.writeheader()
        writer.writerows({"run": name, **row} for name, its in runs.items() for row in its)
    draw(runs, events, arguments.out / "losses.png")
    page, within = report(runs, events, (time.monotonic() - begun) / 60)
    (arguments.out / "README.md").write_text(page)
    print(page)
    return 0 if within else 1


if __name__ == "__main__":
    sys.exit(main())
