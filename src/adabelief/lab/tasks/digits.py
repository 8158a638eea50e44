"""Handwritten digits: scikit-learn's 1,797 images of 8×8 pixels, a small convolutional network."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from adabelief.lab.catalogue import about
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.schedules import divide_at
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Task
from adabelief.lab.tasks.images import Classification, cifar_settings

VALIDATION = TEST = 300


def model() -> nn.Module:
    """Two 3×3 convolutions of 16 and 32 channels with batch normalization, one max-pooling, one linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 10),
    )


def images() -> Split:
    """The stratified parts of 1,197 / 300 / 300 images: always the same ones, whatever the seed of a run.

    Pixels are standardized by the mean and the standard deviation of the training images.
    """
    pixels, labels = load_digits(return_X_y=True)
    others, test, other_labels, test_labels = train_test_split(
        pixels, labels, test_size=TEST, stratify=labels, random_state=0
    )
    train, validation, train_labels, validation_labels = train_test_split(
        others, other_labels, test_size=VALIDATION, stratify=other_labels, random_state=0
    )
    mean, std = train.mean(), train.std()

    def examples(pixels: Any, labels: Any) -> Examples:
        images = torch.tensor((pixels - mean) / std, dtype=torch.float32)
        return Examples(images.view(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64))

    return Split(examples(train, train_labels), examples(validation, validation_labels), examples(test, test_labels))


def intensities() -> Split:
    """The parts that `images` gives, with pixels from 0 to 1 instead of standardized ones."""
    split = images()
    low, high = split.train.inputs.min(), split.train.inputs.max()
    return Split(*(Examples((pixels - low) / (high - low), labels) for pixels, labels in split))


def _make(request: Request) -> Classification:
    return Classification(request, images(), model())


_OPTIONS = {"noise": 0.0, **QUESTIONS, "schedule": "3/4"}

TASKS = {
    "digits": Task(
        **about("digits"),
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(epochs=2, batch_size=64, options=_OPTIONS, note="2 epochs"),
            "small": Scale(epochs=20, batch_size=64, options=_OPTIONS),
            "paper": Scale(epochs=20, batch_size=64, options=_OPTIONS),
        },
        settings=lambda model: cifar_settings(),
        make=_make,
        schedule=divide_at(0.75),
        threads=1,  # for layers this small a second one costs more than it brings
    )
}
