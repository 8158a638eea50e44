"""Tasks that take milliseconds."""

from __future__ import annotations

import torch
from torch import nn

from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.schedules import divide_at
from adabelief.lab.task import Metric, Scale, Task
from adabelief.lab.tasks.images import Classification


def toy_images(request) -> Classification:
    """A linear problem with dropout: it draws from torch's random state in every step."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(100, 8, generator=generator)
    labels = (inputs[:, 0] > 0).long()
    parts = [Examples(inputs[a:b], labels[a:b]) for a, b in ((0, 70), (70, 85), (85, 100))]
    layers = [nn.Linear(8, 16), nn.ReLU(), nn.Dropout(request.options["dropout"]), nn.Linear(16, 2)]
    if request.options["norm"]:
        layers.insert(1, nn.BatchNorm1d(16))
    return Classification(request, Split(*parts), nn.Sequential(*layers))


def linear(name: str = "linear", make=toy_images) -> Task:
    return Task(
        name=name,
        summary="",
        metric=Metric("accuracy", "%"),
        scales=lambda model: {"smoke": Scale(epochs=4, batch_size=16, options={"dropout": 0.5, "norm": False})},
        settings=lambda model: {
            "AdaBelief": {"lr": 1e-2, "eps": 1e-8},
            "SGD": {"lr": 0.1, "momentum": 0.9},
            "Adam": {"lr": 1e-2},
        },
        make=make,
        schedule=divide_at(0.5),
    )


SIZES = {"width": 1.0, "layers": 1, "heads": 2, "train_examples": None, "images": "random", "workers": 1}


def sized(request) -> Classification:
    """A network with sizes that have to go together, on numbers that a folder may scale."""
    options, plain = request.options, toy_images(request._replace(options={"dropout": 0.5, "norm": False}))
    if options["images"] == "more":
        return options["more_examples"]
    if options["images"] == "huge":
        torch.empty(2**60)
    if options["images"] not in ("random", "none"):
        raise ValueError(f"images={options['images']!r}: there are random and more; choose with --set images=random")
    split = plain._split
    if options["images"] == "none":
        split = split._replace(train=Examples(*(x[:0] for x in split.train)))
    if request.data is not None:
        scale = float((request.data / "scale.txt").read_text())
        split = Split(*(Examples(inputs * scale, labels) for inputs, labels in split))
    if (limit := options["train_examples"]) is not None:
        split = split._replace(train=Examples(*(x[:limit] for x in split.train)))
    width, heads = int(8 * options["width"]), options["heads"]
    layers = [nn.Linear(8, width), nn.Unflatten(1, (heads, width // heads)), nn.Flatten()]
    layers += [nn.Linear(width, width) for _ in range(options["layers"])]
    return Classification(request, split, nn.Sequential(*layers, nn.Linear(width, 2)))


def reading() -> Task:
    """A task with options of every kind, which can read a folder."""
    return Task(
        name="reading",
        summary="",
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(epochs=2, batch_size=32, options=SIZES),
            "small": Scale(epochs=3, batch_size=32, options={**SIZES, "train_examples": 32}),
        },
        settings=lambda model: {
            "AdaBelief": {"lr": 1e-2, "eps": 1e-8},
            "SGD": {"lr": 0.1, "momentum": 0.9},
            "EAdam": {"lr": 1e-2},
            "RMSprop": {"lr": 1e-2},
            "Yogi": {"lr": 1e-2},
            "MSVAG": {"lr": 1e-2},
            "Fromage": {"lr": 1e-2},
        },
        make=sized,
        schedule=divide_at(0.5),
        data="a folder with scale.txt",
    )
