"""What came of runs, for the terminal."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from adabelief.lab.engine.config import Config
from adabelief.lab.task import Task

Results = Sequence[tuple[Config, Mapping[str, Any]]]


def outcome(task: Task, config: Config, result: Mapping[str, Any]) -> str:
    """What came of a run, in a few words."""
    if result["diverged"]:
        return f"diverged in epoch {result['epochs']}"
    metric = task.metric.of(config.options)
    return f"test {metric.called} {result['test']:.2f}{metric.suffix} (epoch {result['best_epoch']})"


def summary(task: Task, results: Results) -> Table:
    """A row for each optimizer with its settings: means over the seeds, with the standard deviation."""
    metric = task.metric.of(results[0][0].options)
    unit = f" ({metric.unit})" if metric.unit else ""
    title = metric.called[0].upper() + metric.called[1:] + unit
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for config, result in results:
        rows.setdefault(config.folder.parts[-2], []).append(result)
    spread = ", mean ± standard deviation over the seeds" if any(len(found) > 1 for found in rows.values()) else ""
    table = Table(title=title + spread, title_justify="left", title_style="", box=None, header_style="bold")
    table.add_column("optimizer", overflow="fold")  # its end is what tells the runs of a search apart
    for name in ("seeds", "test", "best\nepoch", "last\ntest", "step(),\nms", "step,\nms"):
        table.add_column(name, justify="right")
    for label, found in rows.items():
        valid = [result for result in found if not result["diverged"]]
        some = f"{len(valid)} of {len(found)}" if len(valid) < len(found) else str(len(found))
        table.add_row(
            label.replace(",", ", "),
            some,
            *((_mean(valid, "test"), _epoch(valid), _mean(valid, "last_test")) if valid else ("diverged", "", "")),
            *(
                f"{1e3 * statistics.fmean(x[name] for x in found):.2f}"
                for name in ("optimizer_seconds", "step_seconds")
            ),
        )
    if any(result["diverged"] for _, result in results):
        table.caption, table.caption_style, table.caption_justify = "Runs that diverged are in no mean.", "", "left"
    return table


def _mean(results: Sequence[Mapping[str, Any]], name: str) -> str:
    values = [float(result[name]) for result in results]
    spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.2f}{spread}"


def _epoch(results: Sequence[Mapping[str, Any]]) -> str:
    return f"{statistics.fmean(result['best_epoch'] for result in results):.3g}"
