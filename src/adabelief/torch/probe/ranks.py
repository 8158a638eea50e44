"""What a probe sees in several processes, put together without any of them waiting for another.

Each process posts its part of the sample to the store by which the group met, and reads there what others have posted
for the same step: a collective call would hang where one process has no probe, or is gone. A process keeps its last two
posts, since others may read the last but one when it has made the next. Only parts of distributed tensors are posted: a
plain tensor is whole wherever it is.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from adabelief.torch import internals
from adabelief.torch.probe.measure import Layer, Numbers

ARRAYS = ("g", "m", "s", "p", "center")


class Exchange:
    """The posts of one probe.

    Args:
        about: What is probed, and how: the same in every process.
        ranks: The processes that have parts of the same tensors.
    """

    _made: ClassVar[Counter[str]] = Counter()
    """How many there were about the same: each finds only posts of those that came as the same one."""

    def __init__(self, about: str, ranks: Iterable[int]) -> None:
        self._made[about] += 1
        self._name = f"{hashlib.sha256(about.encode()).hexdigest()[:16]}/{self._made[about]}"
        self._store, self._rank = internals.store(), torch.distributed.get_rank()
        self.others = sorted({*ranks} - {self._rank})

    def post(self, turn: int, layers: Sequence[Layer]) -> None:
        """Leaves this process's part of the turn-th sample for the others."""
        if self._store:
            self._store.set(self._key(turn, self._rank), _packed(turn, [x for x in layers if x.parted]))

    def collect(self, turn: int, layers: Sequence[Layer]) -> tuple[list[Layer], int]:
        """This process's part with those that others have posted by now, and how many processes that is."""
        mine = {layer.name: [layer] for layer in layers}
        have = 1
        for rank in self.others if self._store else ():
            key = self._key(turn, rank)
            if not self._store.check([key]):
                continue
            posted = _unpacked(turn, _steps(layers), self._store.get(key))
            have += posted is not None
            for layer in posted or ():
                mine.setdefault(layer.name, []).append(layer)
        return [_joined(parts) for parts in mine.values()], have

    def _key(self, turn: int, rank: int) -> str:
        return f"adabelief/{self._name}/{turn % 2}/{rank}"


def _steps(layers: Sequence[Layer]) -> int:
    return max((layer.step for layer in layers if layer.parted), default=0)


def _joined(parts: list[Layer]) -> Layer:
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in ARRAYS}
    return parts[0]._replace(**arrays) if len(parts) > 1 else parts[0]


def _packed(turn: int, layers: Sequence[Layer]) -> bytes:
    """A line of JSON, and the arrays as float32, or as float64 where that would lose something."""
    flat = np.concatenate([getattr(layer, name) for layer in layers for name in ARRAYS] or [np.empty(0)])
    narrow = flat.astype(np.float32)
    exact = np.array_equal(narrow.astype(np.float64), flat, equal_nan=True)
    about: list[Any] = [
        (layer.name, layer.group, layer.size, layer.step, layer.numbers, layer.m.size) for layer in layers
    ]
    head = json.dumps({"turn": turn, "steps": _steps(layers), "type": "<f4" if exact else "<f8", "layers": about})
    return head.encode() + b"\n" + (narrow if exact else flat).tobytes()


def _unpacked(turn: int, steps: int, posted: bytes) -> list[Layer] | None:
    """The layers of a post; None if it is of another turn, or of one after another number of steps."""
    head, _, content = bytes(posted).partition(b"\n")
    about = json.loads(head)
    if about["turn"] != turn or (steps and about["steps"] and about["steps"] != steps):
        return None
    flat, begin, layers = np.frombuffer(bytearray(content), about["type"]).astype(np.float64), 0, []
    for name, group, size, step, numbers, count in about["layers"]:
        g, m, s, p, center = flat[begin : begin + len(ARRAYS) * count].reshape(len(ARRAYS), count)
        layers.append(Layer(name, group, size, step, Numbers(*numbers), g, m, s, p, center, parted=True))
        begin += len(ARRAYS) * count
    return layers
