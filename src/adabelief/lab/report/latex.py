"""`table.tex`: a table for each experiment, to be read with LaTeX's booktabs."""

from __future__ import annotations

import re
from collections.abc import Sequence

from adabelief.lab.analysis.statistics import Verdict
from adabelief.lab.report.sentences import divergences
from adabelief.lab.report.words import margin, spread

_SPECIAL = {
    **{character: rf"\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
    "ε": r"$\varepsilon$",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
}


def tables(verdicts: Sequence[Verdict]) -> str:
    r"""A table for each experiment of which something has finished; it needs `\usepackage{booktabs}`."""
    return "% \\usepackage{booktabs}\n" + "\n".join(_table(verdict) for verdict in verdicts if verdict.experiment.valid)


def escape(text: str) -> str:
    """Text as LaTeX prints it."""
    return re.sub(".", lambda match: _SPECIAL.get(match[0], match[0]), text)


def _table(verdict: Verdict) -> str:
    experiment, compared, ours = verdict.experiment, verdict.comparisons, verdict.reference
    config = experiment.config
    rows = []
    for label, runs in experiment.valid.items():
        picked, last = (
            "0" if compared and label == ours else margin(found[label]) if label in found else "–"
            for found in (compared, verdict.last_comparisons)
        )
        cells = (
            label,
            spread([run.test for run in runs]),
            picked,
            spread([run.last_test for run in runs]),
            last,
            spread([run.validation for run in runs]),
            ", ".join(str(run.outcome["best_epoch"]) for run in runs),
            ", ".join(str(run.config.seed) for run in runs),
        )
        rows.append(" & ".join(map(escape, cells)) + r" \\")
    header = " & ".join(
        [
            "optimizer",
            escape(f"test {experiment.measured}"),
            escape(f"minus {ours}'s") if compared else "difference",
            "after last epoch",
            escape(f"minus {ours}'s") if compared else "difference",
            "validation",
            "best epoch",
            "seeds",
        ]
    )
    settings = "; ".join(f"{label}: {runs[0].arguments}" for label, runs in experiment.valid.items())
    diverged = divergences(experiment)
    caption = (
        f"{experiment.name}: mean ± standard deviation over the seeds, at the epoch that the validation set picked; "
        f"{config.epochs} {'epoch' if config.epochs == 1 else 'epochs'}, batches of {config.batch_size}."
        + (" Differences with 95 % confidence intervals for all of them together." if compared else "")
        + (f" In no mean: {diverged}." if diverged else "")
    )
    body = "\n    ".join(rows)
    return rf"""\begin{{table*}}
  \centering
  \caption{{{escape(caption)}}}
  \label{{tab:{re.sub(r"[^a-z0-9]+", "-", experiment.name.lower())}}}
  \begin{{tabular}}{{lrrrrrrr}}
    \toprule
    {header} \\
    \midrule
    {body}
    \bottomrule
  \end{{tabular}}

  \smallskip
  \parbox{{\textwidth}}{{\footnotesize Settings. {escape(settings)}.}}
\end{{table*}}
"""
