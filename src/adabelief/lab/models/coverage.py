"""Which classes generated images cover, in the eyes of a small classifier of the real ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from adabelief.lab.models.images import cnn

BATCH, LR = 128, 2e-3
"""Of the classifier's training, by AdamW."""

FAIR_SHARE = 0.1
"""A class counts as covered from this fraction of its share in even classes on."""


def classifier(images: Tensor, labels: Tensor, prepare: Callable[[Tensor], Tensor], *, epochs: int) -> nn.Module:
    """Trains `adabelief.lab.models.images.cnn` on labelled images; the same ones give the same network.

    Nothing is drawn from the random state.

    Args:
        images: (n, ...).
        labels: (n,), the classes from 0 upwards.
        prepare: Makes some of the images what generated ones are: (m, channels, size, size), on their device.
        epochs: Passes over the images.

    Returns:
        The network in evaluation mode, on that device.
    """
    like = prepare(images[:1])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        made = cnn(int(labels.max()) + 1, channels=like.shape[1], size=like.shape[-1]).to(like.device)
    optimizer = torch.optim.AdamW(made.parameters(), lr=LR)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for indices in torch.split(torch.randperm(len(labels), generator=generator), BATCH):
            optimizer.zero_grad()
            loss: Tensor = cross_entropy(made(prepare(images[indices])), labels[indices].to(like.device))
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return made.eval().requires_grad_(False)


def counts(network: nn.Module, images: Tensor, classes: int) -> Tensor:
    """How many of some images the network takes for each class, (classes,) in float64 on the CPU."""
    seen: Tensor = network(images).argmax(1).cpu()
    return seen.bincount(minlength=classes).double()


def covered(counted: Tensor) -> int:
    """Classes that have at least a tenth of an even share of the images.

    Example:
        >>> covered(torch.tensor([60.0, 39.0, 1.0, 0.0]))
        2
    """
    return int((counted >= FAIR_SHARE * counted.sum() / len(counted)).sum())


def effective(counted: Tensor) -> float:
    """How many even classes are as varied: exp of the entropy of the shares, from 1 to the number of classes.

    Example:
        >>> round(effective(torch.tensor([50.0, 50.0, 0.0])), 6)
        2.0
    """
    shares = counted / counted.sum()
    return float(torch.special.entr(shares).sum().exp())
