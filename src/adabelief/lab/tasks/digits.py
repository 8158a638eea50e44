"""Handwritten digits: scikit-learn's 1,797 images of 8×8 pixels, a small convolutional network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

from adabelief.lab.tasks import Classification, Examples
from adabelief.settings import recommended

VALIDATION = TEST = 300
EPOCHS = 20

# What the authors ran on CIFAR-10, optimizer by optimizer: from their code and the names of their logs.
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "AdaBelief": recommended("cifar"),
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    "Adam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 5e-4},
    "AdamW": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 1e-2},
    "RAdam": {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 5e-4},
    "AdaBound": {
        **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 5e-4},
        **{"final_lr": 0.1, "gamma": 1e-3},
    },
    "Yogi": {
        **{"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-3, "weight_decay": 5e-4},
        **{"initial_accumulator": 1e-6},
    },
    "MSVAG": {"lr": 0.1, "beta": 0.9, "weight_decay": 5e-4},
    "Fromage": {"lr": 0.01},
}


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


def task() -> Classification:
    """The task, with its stratified split of 1,197 / 300 / 300 images: always the same one, whatever the seed of a run.

    Pixels are standardized by the mean and the standard deviation of the training images.
    """
    pixels, labels = load_digits(return_X_y=True)
    rest, test, rest_labels, test_labels = train_test_split(
        pixels, labels, test_size=TEST, stratify=labels, random_state=0
    )
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=VALIDATION, stratify=rest_labels, random_state=0
    )
    mean, std = train.mean(), train.std()

    def examples(pixels: Any, labels: Any) -> Examples:
        images = torch.tensor((pixels - mean) / std, dtype=torch.float32)
        return Examples(images.view(-1, 1, 8, 8), torch.tensor(labels, dtype=torch.int64))

    return Classification(
        name="digits",
        train=examples(train, train_labels),
        validation=examples(validation, validation_labels),
        test=examples(test, test_labels),
        model=model,
        settings=SETTINGS,
        batch_size=64,
        epochs=EPOCHS,
        decay_at=0.75,
    )
