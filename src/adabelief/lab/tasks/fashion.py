"""Fashion-MNIST (Xiao et al., 2017) with a small convolutional network: a study's cheapest workload."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from adabelief.lab.catalogue import about
from adabelief.lab.data.mnist import CLASSES, SIZE, mnist
from adabelief.lab.models.images import cnn
from adabelief.lab.schedules import cosine
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Task, untuned_settings
from adabelief.lab.tasks import digits
from adabelief.lab.tasks.images import Classification

MEAN, STD = 0.2860, 0.3530
"""Of the pixels of the training images, from 0 to 1."""


def standardized(images: Tensor) -> Tensor:
    """Images with mean 0 and standard deviation 1."""
    return (images - MEAN) / STD


def _make(request: Request) -> Classification:
    options = request.options
    network = partial(cnn, CLASSES, options["width"], channels=1)
    if options["images"] == "digits":
        return Classification(request, digits.images(), network(size=8))
    split = mnist(request.data, options["validation_examples"], options["images"])
    model = network(size=SIZE)
    return Classification(request, split, model, lambda images, generator: standardized(images), standardized)


_STUDY = Scale(
    epochs=2,
    batch_size=128,
    options={"images": "fashion-mnist", "width": 1.0, "validation_examples": 5000, "noise": 0.0, **QUESTIONS},
    note="55,000 training images, 2 epochs, a cosine with warm-up",
    target=88.0,
    threads=1,
)

TASKS = {
    "fashion-mnist": Task(
        **about("fashion-mnist"),
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(
                epochs=2,
                batch_size=64,
                options={"images": "digits", "width": 1.0, "noise": 0.0, **QUESTIONS},
                note="scikit-learn's digits, 8×8 pixels, 2 epochs: it shows that everything runs",
            ),
            "small": _STUDY,
            "study": _STUDY,
        },
        settings=lambda model: untuned_settings(weight_decay=1e-2),
        make=_make,
        schedule=cosine(),
    ),
}
