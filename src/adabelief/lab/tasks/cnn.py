"""A small convolutional network on Fashion-MNIST (Xiao et al., 2017) and on CIFAR-10: two workloads of a study."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from adabelief.lab.catalogue import about
from adabelief.lab.data.mnist import CLASSES, SIZE, mnist
from adabelief.lab.models.images import cnn
from adabelief.lab.schedules import cosine
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Task, untuned_settings
from adabelief.lab.tasks import digits
from adabelief.lab.tasks.images import STUDY_CIFAR, Classification, make_cifar

MEAN, STD = 0.2860, 0.3530
"""Of the pixels of Fashion-MNIST's training images, from 0 to 1."""


def standardized(images: Tensor) -> Tensor:
    """Fashion-MNIST's images with mean 0 and standard deviation 1."""
    return (images - MEAN) / STD


def _make(request: Request) -> Classification:
    options = request.options
    gray = partial(cnn, CLASSES, options["width"], channels=1)
    if options["images"] == "digits":
        return Classification(request, digits.images(), gray(size=8))
    if options["images"] == "cifar10":
        return make_cifar(request, "cifar10", _network)
    split = mnist(request.data, options["validation_examples"], options["images"])
    model = gray(size=SIZE)
    return Classification(request, split, model, lambda images, generator: standardized(images), standardized)


def _network(request: Request, classes: int) -> nn.Module:
    return cnn(classes, request.options["width"])


_SMOKE = Scale(
    epochs=2,
    batch_size=64,
    options={"images": "digits", "width": 1.0, "noise": 0.0, **QUESTIONS},
    note="scikit-learn's digits, 8×8 pixels, 2 epochs: it shows that everything runs",
)
_STUDIES = {
    "fashion-mnist": Scale(
        epochs=2,
        batch_size=128,
        options={"images": "fashion-mnist", "width": 1.0, "validation_examples": 5000, "noise": 0.0, **QUESTIONS},
        note="55,000 training images, 2 epochs, a cosine with warm-up",
        target=89.0,
        threads=1,
    ),
    "cifar10-cnn": Scale(
        epochs=8,
        batch_size=128,
        options={"images": "cifar10", "width": 1.0, **STUDY_CIFAR},
        note="10,000 training images, 8 epochs, a cosine with warm-up",
        target=65.0,
        threads=1,
    ),
}

TASKS = {
    name: Task(
        **about(name),
        metric=Metric("accuracy", "%"),
        scales=lambda model, study=study: {"smoke": _SMOKE, "small": study, "study": study},  # type: ignore[misc]
        settings=lambda model: untuned_settings(weight_decay=1e-2),
        make=_make,
        schedule=cosine(),
    )
    for name, study in _STUDIES.items()
}
