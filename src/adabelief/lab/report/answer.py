"""The plain answer of a comparison, in sentences: where an arm helps, where not, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

from adabelief.lab.analysis.blocks import CONFIDENCE
from adabelief.lab.compare.verdict import BETTER, EQUIVALENT, LOSS, OPEN, WAITING, WORSE, Judged, Verdict
from adabelief.lab.report.words import count, join, number, signed

WORDS = {
    BETTER: "better on",
    WORSE: "worse on",
    EQUIVALENT: "equivalent within the margin on",
    OPEN: "not told apart on",
    LOSS: "not compared, as runs were lost, on",
    WAITING: "not judged yet on",
}


def answer(verdict: Verdict) -> list[str]:
    """A sentence for each contrast, one for lost runs, one on the cost; nothing is concluded from smoke runs."""
    smoke = [each.workload.name for each in verdict.results if each.workload.scale == "smoke"]
    sentences = []
    if smoke:
        sentences.append(f"Smoke runs show that everything runs; of {join(smoke)} nothing is concluded.")
    judged = [one for one in verdict.judged if one.workload not in smoke]
    sentences += [
        _pair(verdict, [one for one in judged if (one.first, one.second) == pair])
        for pair in verdict.plan.contrasts
        if any((one.first, one.second) == pair for one in judged)
    ]
    if lost := _lost(verdict):
        sentences.append(f"Lost runs count as losses: {lost}.")
    if judged and len(verdict.profile) > 1:
        scores = ", ".join(f"{arm} {score:.2f}" for arm, score in verdict.profile.items())
        sentences.append(f"Steps to the target, as AlgoPerf scores them (1: always the quickest): {scores}.")
    return sentences


def how_sure(verdict: Verdict) -> str:
    """What the intervals are, and how small a difference they can show."""
    seeds, contrasts = len(verdict.plan.seeds), len(verdict.judged)
    if seeds < 2:
        return "One seed does not show how much another would change: nothing is judged. Give the plan more seeds."
    made = [one for one in verdict.judged if one.contrast is not None]
    text = (
        f"From {count(seeds, 'fresh seed')} of every arm's winner; intervals hold for "
        f"{'the contrast' if contrasts == 1 else f'all {contrasts} contrasts together'} with {100 * CONFIDENCE:g} %."
    )
    margins = {each.workload.name: each.workload.margin for each in verdict.results}
    wide = [one.workload for one in made if one.contrast and one.contrast.margin > margins[one.workload]]
    if wide:
        text += (
            f" On {join(list(dict.fromkeys(wide)))} they are wider than the margin of equivalence: it takes more seeds "
            "to show that two arms are alike there."
        )
    return text


def _pair(verdict: Verdict, judged: Sequence[Judged]) -> str:
    first, second = judged[0].first, judged[0].second
    told = []
    for kind, words in WORDS.items():
        found = [one for one in judged if one.verdict == kind]
        if found:
            told.append(f"{words} {join([_where(verdict, one) for one in found])}")
    return f"{first} against {second}: {'; '.join(told)}."


def _where(verdict: Verdict, one: Judged) -> str:
    """The workload, with the difference where one is shown."""
    if one.contrast is None or one.verdict == OPEN:
        return one.workload
    (each,) = (each for each in verdict.results if each.workload.name == one.workload)
    difference, margin = one.contrast.difference, one.contrast.margin
    level = max(abs(difference), margin)
    small = ", within the margin" if one.verdict in (BETTER, WORSE) and one.equivalence < 1 - CONFIDENCE else ""
    told = f"{signed(difference, beside=level)} ± {number(margin, beside=level)}{each.metric.suffix}"
    return f"{one.workload} ({told}{small})"


def _lost(verdict: Verdict) -> str:
    """Arm by arm, how many runs were lost where."""
    told = []
    for each in verdict.results:
        for arm in each.workload.arms:
            search = [one for one in each.search if one.trial.arm == arm]
            lost = sum(one.lost for one in search), sum(one.lost for one in each.final(arm))
            if lost[0] == len(search):
                told.append(f"{arm} lost every trial on {each.workload.name} and has no finals")
            elif any(lost):
                told.append(
                    f"{arm} {lost[0]} of {len(search)} trials and {count(lost[1], 'final')} on {each.workload.name}"
                )
    return "; ".join(told)
