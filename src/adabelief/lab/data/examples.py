"""What a set of labelled examples in memory is."""

from __future__ import annotations

from typing import NamedTuple

import torch
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


def mislabelled(examples: Examples, share: float, seed: int = 0) -> Examples:
    """Examples of which a share has a wrong label: any other class, each as likely (symmetric label noise).

    Args:
        examples: Labels (n,) of the classes 0, 1, ..., all of which come up.
        share: Of the examples, at least 0 and below 1; round(share * n) of them are changed.
        seed: Seed of the choice. It is not the seed of a run: runs that are to be compared share the noise.

    Raises:
        ValueError: If `share` is out of range.

    Example:
        >>> labels = mislabelled(Examples(torch.zeros(10, 1), torch.arange(10)), 0.2).labels
        >>> int((labels != torch.arange(10)).sum())
        2
    """
    if not 0 <= share < 1:
        raise ValueError(f"noise={share}: give the share of wrong labels, at least 0 and below 1, as --set noise=0.2")
    if not share:
        return examples
    inputs, labels = examples
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    classes, changed = int(labels.max()) + 1, labels.clone()
    shift = torch.randint(1, classes, wrong.shape, generator=generator)
    changed[wrong] = (labels[wrong] + shift) % classes
    return Examples(inputs, changed)
