"""The space of a search, as data: what each arm is, what of its settings varies, and how a point becomes settings.

A space is a table of arms. Each has a table of names: a plain value is fixed, `{low, high}` varies on a log scale
(`log = false`: on a linear one), `{choices = [...]}` varies among these. Names are the optimizer's arguments, and

    floor               of the denominator, the same for every arm: eps = floor where eps is added to the root (AdamW),
                        eps = floor² · (1 − beta2) where it is kept in the mean square (AdaBelief, EAdam)
    beta1, beta2        of `betas`; their log scale is that of 1 − beta
    weight_decay        as the optimizer takes it: a decoupled one shrinks the weights by lr · weight_decay a step
    independent_decay   what a step shrinks the weights by at the full learning rate, whatever that is: weight_decay =
                        independent_decay / lr (Wortsman et al. 2023); for decoupled decay alone

A table `[common]` holds for every arm whose optimizer has the name; an arm's own table goes over it.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from adabelief.lab import optimizers
from adabelief.names import one_of, suggestion
from adabelief.options import BETA, check, is_number
from adabelief.settings import eps_for_floor

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Tables = Mapping[str, Mapping[str, Any]]

BETAS = ("beta1", "beta2")
COMMON = "common"

EPS_IN_MEAN_SQUARE = ("AdaBelief", "AdaBeliefW", "RangerAdaBelief", "EAdam", "EAdamW")
"""Optimizers that keep eps inside the root; the others add it to the root."""

EPS_ELSEWHERE = ("Muon",)
"""Whose eps is no floor of a denominator."""

DECOUPLED = ("AdamW", "AdamW-same-decay", "Muon")
"""Optimizers whose weight decay is always decoupled and lr-scaled."""

DECOUPLING = ("weight_decouple", "decoupled_weight_decay")
"""Arguments that decouple that of others."""

DIGITS = 4
"""Significant digits of a value, so that it can be typed again."""


@dataclass(frozen=True)
class Dimension:
    """One thing that varies.

    Attributes:
        name: What.
        low: Its least value.
        high: Its largest.
        log: On a log scale; for decay rates that of 1 − value.
        choices: Among these instead.
    """

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = True
    choices: tuple[Any, ...] = ()

    @property
    def of_rest(self) -> bool:
        """Whether the scale is that of 1 − value."""
        return self.log and self.name in BETAS

    @property
    def scale(self) -> tuple[float, float]:
        """The least and the largest of what is even on the scale: the value, or 1 − value."""
        return (1.0 - self.high, 1.0 - self.low) if self.of_rest else (self.low, self.high)

    def value(self, at: float) -> Any:
        """The value at a place from 0 (low) to 1 (high).

        Example:
            >>> Dimension("lr", 1e-4, 1e-2).value(0.5), Dimension("beta2", 0.9, 0.999).value(0.5)
            (0.001, 0.99)
        """
        if self.choices:
            return self.choices[min(int(at * len(self.choices)), len(self.choices) - 1)]
        low, high = self.scale
        at = 1.0 - at if self.of_rest else at
        return self.read(low ** (1.0 - at) * high**at if self.log else low + at * (high - low))

    def read(self, scaled: float) -> float:
        """The value for what is even on the scale, in few digits and within the bounds."""
        rounded = float(f"{scaled:.{DIGITS}g}")
        value = float(f"{1.0 - rounded:.12g}") if self.of_rest else rounded
        return min(max(value, self.low), self.high)


@dataclass(frozen=True)
class Arm:
    """An optimizer and what of it varies.

    Attributes:
        name: What the arm is called.
        optimizer: A name in `optimizers.METHODS`; empty where it is of nothing that the lab knows.
        dimensions: What varies.
        fixed: What does not, besides the usual.
    """

    name: str
    optimizer: str
    dimensions: tuple[Dimension, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def values(self, point: Mapping[str, float]) -> dict[str, Any]:
        """The values at a point of the unit cube, whose coordinates have names; others than the arm's do not count."""
        return {dimension.name: dimension.value(point[dimension.name]) for dimension in self.dimensions}

    def settings(self, values: Mapping[str, Any], usual: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Arguments of the optimizer.

        Args:
            values: Of everything that varies.
            usual: Arguments where neither these nor the fixed ones say otherwise, such as a task's published ones.

        Example:
            >>> arm = Arm("AdaBelief", "AdaBelief", fixed={"lr": 1e-3, "floor": 1e-4})
            >>> arm.settings({"beta2": 0.99})["eps"]
            1e-10
        """
        given = {**self.fixed, **values}
        if not self.optimizer:
            return {**(usual or {}), **given}
        defaults = {name: x.default for name, x in optimizers.arguments(self.optimizer).items() if x.default != x.empty}
        derived = {"floor", "independent_decay", *BETAS}
        found = {**(usual or {}), **{name: value for name, value in given.items() if name not in derived}}
        if given.keys() & set(BETAS):
            usually = found.get("betas", defaults["betas"])
            found["betas"] = tuple(given.get(name, beta) for name, beta in zip(BETAS, usually, strict=True))
        if "floor" in given:
            inside = self.optimizer in EPS_IN_MEAN_SQUARE
            beta2 = found.get("betas", defaults.get("betas", (0.0, 0.0)))[1]
            found["eps"] = few(eps_for_floor(given["floor"], beta2)) if inside else given["floor"]
        if "independent_decay" in given:
            found["weight_decay"] = few(given["independent_decay"] / found.get("lr", defaults.get("lr", 1.0)))
        return found


@dataclass(frozen=True)
class Space:
    """The arms of a search."""

    arms: tuple[Arm, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The coordinates of the unit cube that all arms share: everything that varies in any of them."""
        found = dict.fromkeys(dimension.name for arm in self.arms for dimension in arm.dimensions)
        return tuple(sorted(found, key=lambda name: name != "lr"))  # the one that matters most is drawn most evenly

    def only(self, names: Sequence[str]) -> Space:
        """The space with some of its arms, in this order.

        Raises:
            ValueError: If there is no such arm.
        """
        arms = {arm.name: arm for arm in self.arms}
        return Space(tuple(arms[one_of("--optimizer", name, arms)] for name in dict.fromkeys(names)))


def few(value: float) -> float:
    """A number in few digits."""
    return float(f"{value:.{DIGITS}g}")


def read(path: Path) -> Space:
    """The space of a TOML file.

    Raises:
        ValueError: If it is no TOML or no space; the message names the file, the table, the name and the remedy.
        OSError: If it cannot be read.
    """
    return space(read_tables(path), str(path))


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        ValueError: If it is no TOML.
        OSError: If it cannot be read.
    """
    try:
        return dict(tomllib.loads(path.read_text()))
    except ValueError as error:  # of the syntax, or of bytes that are no text
        raise ValueError(f"{path} is no TOML ({error}); `adabelief tune TASK --example` prints a space") from None


def space(tables: Tables, source: str = "space") -> Space:
    """The space of a table of arms.

    Args:
        tables: A table for each arm, and `common`.
        source: Where it is from; messages begin with it.

    Raises:
        ValueError: If there is no arm, or something in one is refused.

    Example:
        >>> space({"AdamW": {"lr": {"low": 1e-4, "high": 1e-1}, "floor": 1e-8}}).arms[0].settings({"lr": 0.01})
        {'lr': 0.01, 'eps': 1e-08}
    """
    if not isinstance(tables, Mapping):
        raise ValueError(f"{source}: a space is a table of arms, got {tables!r}")
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise ValueError(f"{source}: {name} = {table!r} stands in no arm; put it under [{COMMON}] or an optimizer")
    arms = tuple(
        _arm(name, table, tables.get(COMMON, {}), f"{source}: [{name}]")
        for name, table in tables.items()
        if name != COMMON
    )
    if not arms:
        raise ValueError(f"{source} has no arm; add one, such as [AdaBelief]")
    for name in set(tables.get(COMMON, {})).difference(*(known_names(arm.optimizer) for arm in arms if arm.optimizer)):
        if all(arm.optimizer for arm in arms):
            known = {known for arm in arms for known in known_names(arm.optimizer)}
            raise ValueError(f"{source}: [{COMMON}] {name}: no arm has it; leave it away{suggestion(name, known)}")
    return Space(arms)


def known_names(optimizer: str) -> tuple[str, ...]:
    """What an arm of an optimizer can have."""
    arguments = optimizers.arguments(optimizer)
    return (
        *arguments,
        *(("floor",) if "eps" in arguments and optimizer not in EPS_ELSEWHERE else ()),
        *(BETAS if "betas" in arguments else ()),
        *(("independent_decay",) if optimizer in DECOUPLED or arguments.keys() & set(DECOUPLING) else ()),
    )


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """A table over another one; of two names for the same argument the upper one's counts."""
    hidden = {"eps": {"floor"}, "floor": {"eps"}, "betas": set(BETAS), "beta1": {"betas"}, "beta2": {"betas"}}
    hidden |= {"weight_decay": {"independent_decay"}, "independent_decay": {"weight_decay"}}
    gone = {name for key in above for name in hidden.get(key, ())}
    return {**{key: value for key, value in below.items() if key not in gone}, **above}


def _arm(name: str, own: Mapping[str, Any], common: Mapping[str, Any], where: str) -> Arm:
    typed = own.get("optimizer", name)
    optimizer = typed and one_of(f"{where} optimizer", str(typed), optimizers.METHODS)
    known = known_names(optimizer) if optimizer else ()
    table = {key: value for key, value in common.items() if key in known or not optimizer}
    table = over(table, {key: value for key, value in own.items() if key != "optimizer"})
    dimensions, fixed = [], {}
    for key, value in table.items():
        if optimizer and key not in known:
            raise ValueError(
                f"{where} {key}: {optimizer} has no such setting; it has {', '.join(known)}{suggestion(key, known)}"
            )
        if isinstance(value, Mapping):
            dimensions.append(_dimension(key, value, f"{where} {key}"))
        else:
            fixed[key] = tuple(value) if isinstance(value, list) else value
    arm = Arm(name, optimizer, tuple(dimensions), fixed)
    if optimizer:
        _check(arm, where)
    return arm


def _dimension(name: str, table: Mapping[str, Any], where: str) -> Dimension:
    keys = ("low", "high", "log", "choices")
    for key in table:
        if key not in keys:
            raise ValueError(
                f"{where}: there is no {key!r} in a range; it has low and high, or choices" + suggestion(key, keys)
            )
    if "choices" in table:
        choices = table["choices"]
        if not isinstance(choices, (list, tuple)) or not choices or len(table) > 1:
            raise ValueError(f"{where}: choices must be a list of values and stand alone, got {dict(table)!r}")
        return Dimension(name, choices=tuple(tuple(x) if isinstance(x, list) else x for x in choices))
    missing = [key for key in ("low", "high") if not is_number(table.get(key))]
    if missing:
        raise ValueError(f"{where}: {missing[0]} must be a number, got {table.get(missing[0])!r}; write {{low, high}}")
    found = Dimension(name, float(table["low"]), float(table["high"]), table.get("log", True))
    if not isinstance(found.log, bool):
        raise ValueError(f"{where}: log must be true or false, got {found.log!r}")
    if not found.low < found.high < math.inf:
        raise ValueError(f"{where}: low must be below high, got {found.low:g} and {found.high:g}")
    if name in BETAS:
        check(f"{where}: high", found.high, *BETA)
    elif found.log and found.low <= 0:
        raise ValueError(f"{where}: low must be above 0 on a log scale, got {found.low:g}; raise it, or log = false")
    return found


def _check(arm: Arm, where: str) -> None:
    """Asks the optimizer whether it takes the ends of the ranges and each of the choices."""
    given = {*arm.fixed, *(dimension.name for dimension in arm.dimensions)}
    for one, others in (("eps", ("floor",)), ("betas", BETAS), ("weight_decay", ("independent_decay",))):
        if one in given and given.intersection(others):
            raise ValueError(f"{where}: {one} and {sorted(given.intersection(others))[0]} say the same; keep one")
    told = {name: x.default for name, x in optimizers.arguments(arm.optimizer).items()}
    told |= optimizers.METHODS[arm.optimizer].arguments(arm.fixed)
    decoupled = arm.optimizer in DECOUPLED or any(told.get(name) is True for name in DECOUPLING)
    if "independent_decay" in given and not decoupled:
        raise ValueError(
            f"{where} independent_decay: this decay is coupled; set weight_decouple = true, or weight_decay"
        )
    middle = arm.values(dict.fromkeys((dimension.name for dimension in arm.dimensions), 0.5))
    for dimension in arm.dimensions:
        for value in dimension.choices or (dimension.low, dimension.high):
            try:
                optimizers.check(arm.optimizer, arm.settings({**middle, dimension.name: value}))
            except (ValueError, TypeError, ArithmeticError) as error:
                raise ValueError(f"{where} {dimension.name} = {value!r}: {error}") from None
    try:
        optimizers.check(arm.optimizer, arm.settings(middle))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise ValueError(f"{where} {error}") from None
