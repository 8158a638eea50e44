"""What a comparison says: differences with adjusted intervals, equivalence, cost of tuning, time to target."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from adabelief.lab.analysis.best_of_k import Curve, expected_best_curve
from adabelief.lab.analysis.blocks import CONFIDENCE, Contrast, against_control, between, holm, randomized_block
from adabelief.lab.analysis.bootstrap import (
    Interval,
    interquartile_mean,
    probability_of_improvement,
    stratified_bootstrap,
)
from adabelief.lab.analysis.equivalence import tost
from adabelief.lab.analysis.examples import paired_examples
from adabelief.lab.analysis.sensitivity import lr_sensitivity
from adabelief.lab.analysis.targets import profile_score, target, time_to_target
from adabelief.lab.compare.plan import Plan
from adabelief.lab.compare.results import Results
from adabelief.lab.compare.trials import Done

BETTER, WORSE, EQUIVALENT, OPEN, LOSS, WAITING = "better", "worse", "equivalent", "not told apart", "loss", "waiting"

LEVEL = 1 - CONFIDENCE


class Judged(NamedTuple):
    """A contrast on a workload.

    Attributes:
        workload: Its name.
        first: The arm whose metric is taken.
        second: The arm whose metric is taken off.
        contrast: The difference with its interval; None where an arm has lost a final, or the finals are not over.
        equivalence: The p-value of the two one-sided tests, by Holm over all contrasts; nan where there is none.
        verdict: "better", "worse", "equivalent", "not told apart", "loss" or "waiting": of the first arm.
        p: The adjusted p-value of no difference; nan where there is none.
        over_examples: The standard error of the difference over the test examples, both arms on the same ones: what
            another test set would change. nan where hits were not kept.
    """

    workload: str
    first: str
    second: str
    contrast: Contrast | None
    equivalence: float
    verdict: str
    p: float
    over_examples: float


class Times(NamedTuple):
    """Time to target on a workload.

    Attributes:
        goal: The validation metric to reach; nan where the reference arm has no finals.
        steps: The median over the seeds by arm, inf where the middle run does not reach it; of two middle ones the
            shorter, so that the reference reaches its own target.
        seconds: The same in seconds; empty where the runs were not all made on the same kind of machine.
    """

    goal: float
    steps: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """All that is concluded from a comparison, once, for whoever tells or draws it.

    Attributes:
        plan: What was compared.
        results: What came of it, by workload.
        judged: Every contrast on every workload.
        dunnett: Whether all contrasts share an arm, so that the intervals are Dunnett's.
        best_of: By workload and arm, the expected best of k trials.
        sensitivities: By workload and arm, the learning-rate sensitivity of the validation loss; nan where unknown.
        times: By workload.
        profile: AlgoPerf's score of every arm, by steps, over the workloads that all arms have.
        aggregate: By arm, the interquartile mean of the finals in margins of equivalence above the reference's mean.
        improvement: By contrast, the probability of improvement over the workloads.
    """

    plan: Plan
    results: Sequence[Results]
    judged: Sequence[Judged]
    dunnett: bool
    best_of: Mapping[str, Mapping[str, Curve]]
    sensitivities: Mapping[str, Mapping[str, float]]
    times: Mapping[str, Times]
    profile: Mapping[str, float]
    aggregate: Mapping[str, Interval]
    improvement: Mapping[tuple[str, str], Interval]


def judge(plan: Plan, results: Sequence[Results]) -> Verdict:
    """What can be concluded from what is finished. A lost run counts as a loss wherever runs are counted or ranked."""
    over = [each for each in results if each.finished]
    whole = [each for each in over if set(plan.arms) <= each.workload.arms.keys()]
    times = {each.workload.name: _times(plan, each) for each in over}
    steps = [[times[each.workload.name].steps[arm] for each in whole] for arm in plan.arms]
    scores, ranked = (
        {arm: np.array([of(plan, each, arm) for each in whole]).T for arm in plan.arms} if whole else {}
        for of in (_scores, _ranked)
    )
    shared = _shared(plan)
    return Verdict(
        plan=plan,
        results=results,
        judged=_judge(plan, results, shared),
        dunnett=shared is not None,
        best_of={each.workload.name: {arm: _best_of(each, arm) for arm in each.workload.arms} for each in results},
        sensitivities={
            each.workload.name: {arm: _sensitivity(each, arm) for arm in each.workload.arms} for each in results
        },
        times=times,
        profile=dict(zip(plan.arms, profile_score(steps).tolist(), strict=True)) if whole else {},
        aggregate={arm: stratified_bootstrap(interquartile_mean, x) for arm, x in scores.items()},
        improvement={
            (first, second): stratified_bootstrap(probability_of_improvement, ranked[first], ranked[second])
            for first, second in plan.contrasts
            if ranked
        },
    )


def worst(each: Results) -> float:
    """What a lost run counts as where a number is needed: the worst value that any run of the workload ended with."""
    known = [each.sign * one.validation for one in (*each.search, *each.finals) if math.isfinite(one.validation)]
    known += [each.sign * one.test for one in each.finals if math.isfinite(one.test)]
    return each.sign * min(known, default=math.nan)


def values(each: Results, arm: str) -> list[float]:
    """The test metric of an arm's finals, seed by seed; nan for a lost one."""
    return [one.test if not one.lost else math.nan for one in each.final(arm)]


def complete(each: Results, arm: str) -> bool:
    """Whether an arm has finals, and all of them ended with a number."""
    found = values(each, arm)
    return bool(found) and all(map(math.isfinite, found))


def _shared(plan: Plan) -> str | None:
    """The arm that is in every contrast."""
    common = set.intersection(*map(set, plan.contrasts))
    return next((arm for arm in plan.arms if arm in common), None)


def _judge(plan: Plan, results: Sequence[Results], shared: str | None) -> list[Judged]:
    asked = [(each, pair) for each in results for pair in plan.pairs(each.workload)]
    families = len({each.workload.name for each, _ in asked})
    found = {
        (each.workload.name, pair): contrast
        for each in results
        for pair, contrast in _contrasts(plan, each, shared, families, len(asked)).items()
    }
    unadjusted = [x.p for x in found.values()]
    adjusted = dict(zip(found, holm(unadjusted) if shared is None else unadjusted, strict=True))
    margins = {each.workload.name: each.workload.margin for each in results}
    tests = [tost(x.difference, x.error, x.freedom, margins[name]) for (name, _), x in found.items()]
    equal = dict(zip(found, holm(tests), strict=True))
    judged = []
    for each, pair in asked:
        key = each.workload.name, pair
        contrast = found.get(key)
        verdict = _verdict(each, pair, contrast, equal.get(key, math.nan))
        p_equal, p_same = equal.get(key, math.nan), adjusted.get(key, math.nan)
        error = _over_examples(each, pair) if contrast else math.nan
        judged.append(Judged(each.workload.name, *pair, contrast, p_equal, verdict, p_same, error))
    return judged


def _contrasts(
    plan: Plan, each: Results, shared: str | None, families: int, together: int
) -> dict[tuple[str, str], Contrast]:
    """The contrasts of a workload between arms that lost no final, from a model of all such arms of its contrasts."""
    pairs = plan.pairs(each.workload)
    arms = [arm for arm in each.workload.arms if any(arm in pair for pair in pairs)]
    whole = {arm: values(each, arm) for arm in arms if each.finished and complete(each, arm)}
    pairs = [pair for pair in pairs if set(pair) <= whole.keys()]
    if not pairs or len(plan.seeds) < 2:
        return {}
    fit, at = randomized_block(list(whole.values()), step=_step(each)), {arm: i for i, arm in enumerate(whole)}
    if shared is None:
        made = between(fit, [(at[first], at[second]) for first, second in pairs], together=together)
        return dict(zip(pairs, made, strict=True))
    made = against_control(fit, at[shared], families=families)
    by_rival = dict(zip([arm for arm in whole if arm != shared], made, strict=True))
    return {
        (first, second): by_rival[first] if second == shared else by_rival[second].turned() for first, second in pairs
    }


def _over_examples(each: Results, pair: tuple[str, str]) -> float:
    hits = [[one.hits for one in each.final(arm)] for arm in pair]
    if any(found is None for side in hits for found in side) or each.metric.unit != "%":
        return math.nan
    first, second = (np.stack([found for found in side if found is not None]) for side in hits)
    return paired_examples(first, second)[1]


def _step(each: Results) -> float:
    """Between neighbouring values of the test metric, where it counts examples."""
    examples = {one.run.test_examples for one in each.finals if one.run}
    n = next(iter(examples), None)
    return 100 / n if n and each.metric.unit == "%" else 0.0


def _verdict(each: Results, pair: tuple[str, str], contrast: Contrast | None, equivalence: float) -> str:
    if contrast is None:
        return LOSS if each.finished and not all(complete(each, arm) for arm in pair) else WAITING
    if contrast.clear:
        return BETTER if each.sign * contrast.difference > 0 else WORSE
    return EQUIVALENT if equivalence < LEVEL else OPEN


def _best_of(each: Results, arm: str) -> Curve:
    """By validation after the last epoch, in the metric's own direction."""
    floor = each.sign * worst(each)
    found = [each.sign * one.validation if not one.lost else floor for one in each.trials(arm)]
    if not found or not np.isfinite(found).all():
        return Curve(*[np.zeros(0)] * 3)
    curve = expected_best_curve(found)
    return curve if each.sign > 0 else Curve(-curve.expected, -curve.high, -curve.low)


def rates(each: Results, arm: str, bins: int = 8) -> list[tuple[float, Done]]:
    """In each of some equal parts of the range of log lr, the trial of the lowest validation loss with its rate."""
    found = [(float(one.trial.config.settings["lr"]), one) for one in each.trials(arm) if "lr" in one.trial.values]
    if not found:
        return []
    logs = np.log([rate for rate, _ in found])
    width = (logs.max() - logs.min()) / bins or 1.0
    best: dict[int, tuple[float, Done]] = {}
    for log, (rate, one) in zip(logs, found, strict=True):
        part = min(int((log - logs.min()) / width), bins - 1)
        if part not in best or loss(one) < loss(best[part][1]):
            best[part] = rate, one
    return [best[part] for part in sorted(best)]


def loss(one: Done) -> float:
    """The validation loss after the last epoch; infinite where the run is lost."""
    return one.validation_loss if math.isfinite(one.validation_loss) and not one.lost else math.inf


def start(each: Results) -> float:
    """About the loss before training: the median over the search of the first loss that a run recorded."""
    first = [one.run.steps[0].get("loss", math.nan) for one in each.search if one.run and one.run.steps]
    finite = [float(x) for x in first if math.isfinite(x)]
    return statistics.median(finite) if finite else math.nan


def _sensitivity(each: Results, arm: str) -> float:
    found = {rate: loss(one) for rate, one in rates(each, arm)}
    begun = start(each)
    if len(found) < 2 or not math.isfinite(begun) or not any(map(math.isfinite, found.values())):
        return math.nan
    return lr_sensitivity(list(found), list(found.values()), begun)


def _times(plan: Plan, each: Results) -> Times:
    bests = [one.picked for one in each.final(plan.reference) if math.isfinite(one.picked)]
    goal = target(bests) if bests else math.nan

    def median(arm: str, seconds: bool) -> float:
        reached = []
        for one in each.final(arm):
            run = one.run
            curve = run.curve(f"validation_{each.metric.name}") if run and not one.lost else []
            spent = (
                np.cumsum(run.curve("epoch_seconds")).tolist() if run and seconds else run.curve("step") if run else []
            )
            reached.append(
                time_to_target(curve, spent[: len(curve)], goal, higher_is_better=each.metric.higher_is_better)
            )
        return statistics.median_low(reached) if reached else math.inf

    arms = each.workload.arms
    return Times(
        goal,
        {arm: median(arm, seconds=False) for arm in arms},
        {arm: median(arm, seconds=True) for arm in arms} if each.same_place else {},
    )


def _ranked(plan: Plan, each: Results, arm: str) -> list[float]:
    """The finals of an arm, higher is better; a lost one is below every number."""
    found = values(each, arm) or [math.nan] * len(plan.seeds)
    return [each.sign * x if math.isfinite(x) else -math.inf for x in found]


def _scores(plan: Plan, each: Results, arm: str) -> list[float]:
    """The finals of an arm in margins above the mean of the reference's; a lost one has the worst value there is."""
    lowest = each.sign * worst(each)
    found, reference = (
        [x if math.isfinite(x) else lowest for x in _ranked(plan, each, name)] for name in (arm, plan.reference)
    )
    return [(x - statistics.fmean(reference)) / each.workload.margin for x in found]
