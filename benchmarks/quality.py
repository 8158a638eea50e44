"""Whether 8 bits of state cost quality: the final losses of the same seeds with state in 8, 16 and 32 bits.

    python benchmarks/quality.py docs/results/bits/plan.toml --out bits

runs what is left of the plan, as `adabelief compare` does (its data is in `data/`, see docs/lab.md),
and writes a table and every final run's losses. Let d be the differences of the validation loss after the last epoch,
8 bits minus 32, seed by seed, of which there are n, and σ the standard deviation of the loss in 32 bits over the seeds.
It holds where the 90 % interval, mean d ± t(0.95, n − 1) · sd(d)/√n, lies within ±σ/2.
"""

from __future__ import annotations

import argparse
import csv
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy.special import stdtrit

from adabelief.lab.compare.conduct import conduct
from adabelief.lab.compare.plan import Plan, read
from adabelief.lab.compare.results import Results, results
from adabelief.lab.compare.running import Place

SHARE = 0.5
"""Of the seeds' standard deviation: how far the interval may reach."""

HEADER = "workload", "arm", "seed", "train_loss", "validation_loss", "test_metric"


def losses(found: Results, arm: str) -> dict[int, float]:
    """The final validation loss of each seed of an arm that came to its end."""
    return {one.trial.config.seed: one.validation_loss for one in found.final(arm) if one.finished and not one.lost}


def judged(found: Results, arm: str, reference: str) -> dict[str, object]:
    """What the differences of an arm from the reference say; there must be two seeds or more."""
    own, other = losses(found, arm), losses(found, reference)
    seeds = sorted(own.keys() & other.keys())
    d = np.array([own[seed] - other[seed] for seed in seeds])
    sigma = float(np.std([other[seed] for seed in seeds], ddof=1))
    half = float(stdtrit(len(d) - 1, 0.95) * d.std(ddof=1) / math.sqrt(len(d)))
    reach = (abs(float(d.mean())) + half) / sigma
    return {
        "workload": found.workload.name,
        "arm": arm,
        "seeds": len(d),
        f"loss, {reference}": f"{np.mean([other[seed] for seed in seeds]):.4f}",
        "σ of seeds": f"{sigma:.4f}",
        "mean difference": f"{d.mean():+.4f}",
        "90 % interval": f"{d.mean() - half:+.4f} to {d.mean() + half:+.4f}",
        "reaches, in σ": f"{reach:.2f}",
        f"within {SHARE} σ": "yes" if reach <= SHARE else "no",
    }


def table(plan: Plan, found: list[Results]) -> str:
    """A row for every workload and contrast whose runs are finished, in Markdown."""
    done = [each for each in found if each.finished]
    rows = [judged(each, arm, other) for each in done for arm, other in plan.contrasts]
    if not rows:
        return "No workload is finished.\n"
    lines = [list(rows[0]), [":--"] * 2 + ["--:"] * (len(rows[0]) - 2), *(list(row.values()) for row in rows)]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def write_losses(found: list[Results], path: Path) -> None:
    """Every final run's numbers, as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for each in found:
            for one in each.finals:
                run = one.run
                train = run.epochs[-1]["train_loss"] if run and run.epochs else None
                config = one.trial.config
                writer.writerow([each.workload.name, one.trial.arm, config.seed, train, one.validation_loss, one.test])


def main() -> None:
    """Runs and judges."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="the plan of the comparison")
    parser.add_argument("--out", type=Path, default=Path("bits"), help="folder of its runs")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--report", action="store_true", help="run nothing; judge what is finished")
    asked = parser.parse_args()
    plan, console = read(asked.plan), Console()
    if not asked.report:
        asked.out.mkdir(parents=True, exist_ok=True)
        conduct(plan, Place(asked.out, cpu=True), workers=asked.workers, console=console)
    found = results(plan, asked.out)
    text = table(plan, found)
    (asked.out / "quality.md").write_text(text, encoding="utf-8")
    write_losses(found, asked.out / "quality.csv")
    print(text)


if __name__ == "__main__":
    main()
