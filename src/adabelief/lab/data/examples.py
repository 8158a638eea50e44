"""What a set of labelled examples in memory is."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Examples(NamedTuple):
    """Inputs (n, ...) and labels (n,)."""

    inputs: Tensor
    labels: Tensor


class Split(NamedTuple):
    """The three parts of an image set in memory: images (n, channels, height, width)."""

    train: Examples
    validation: Examples
    test: Examples
