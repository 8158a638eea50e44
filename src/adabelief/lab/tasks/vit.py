"""A small vision transformer: decoupled decay, where AdamW is at home. The paper left this open."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import VisionTransformer

from adabelief.lab.catalogue import about
from adabelief.lab.schedules import warm_up_then_cosine
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Task, untuned_settings
from adabelief.lab.tasks import digits
from adabelief.lab.tasks.images import STUDY_CIFAR, Classification, make_cifar

WARM_UP_SHARE = 0.1
"""The share of the epochs in which the learning rate rises."""


def network(request: Request, classes: int, size: int = 32) -> nn.Module:
    """torchvision's, on the patches of images that are `size` pixels wide and high.

    Raises:
        ValueError: If the patches do not fill the images.
    """
    options = request.options
    patch = options["patch"]
    if patch < 1 or size % patch:
        raise ValueError(f"patch={patch}: patches of so many pixels do not fill a side of {size}; give a divisor of it")
    model: nn.Module = VisionTransformer(
        image_size=size,
        patch_size=patch,
        num_layers=options["layers"],
        num_heads=options["heads"],
        hidden_dim=options["width"],
        mlp_dim=2 * options["width"],
        dropout=options["dropout"],
        num_classes=classes,
    )
    return model


def make(request: Request) -> Classification:
    """The network on CIFAR-10, or on the digits in gray, which are embedded."""
    if request.options["images"] == "cifar10":
        return make_cifar(request, "cifar10", network)

    def in_color(images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)

    model = network(request, classes=10, size=8)
    return Classification(request, digits.images(), model, lambda images, generator: in_color(images), in_color)


TASKS = {
    "vit": Task(
        **about("vit"),
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(
                epochs=2,
                batch_size=64,
                options={
                    "images": "digits",
                    "patch": 1,
                    "layers": 2,
                    "heads": 2,
                    "width": 32,
                    "dropout": 0.0,
                    "noise": 0.0,
                },
                note="the embedded digits, 2 layers of 32, 2 epochs, no warm-up: it shows that everything runs",
            ),
            "small": Scale(
                epochs=8,
                batch_size=128,
                options={
                    "images": "cifar10",
                    "patch": 4,
                    "layers": 4,
                    "heads": 4,
                    "width": 64,
                    "dropout": 0.0,
                    "train_examples": 10000,
                    "validation_examples": 5000,
                    "test_examples": None,
                    "noise": 0.0,
                    **QUESTIONS,
                },
                note="4 layers of 64, 10,000 training images, 8 epochs, warm-up and cosine step by step",
            ),
            "study": Scale(
                epochs=8,
                batch_size=128,
                options={
                    **{"images": "cifar10", "patch": 8, "layers": 4, "heads": 4, "width": 64, "dropout": 0.0},
                    **STUDY_CIFAR,
                },
                note="patches of 8×8 pixels, 4 layers of 64, 10,000 training images, 8 epochs, a cosine with warm-up",
                target=38.0,
                threads=1,
            ),
            "paper": Scale(
                epochs=200,
                batch_size=128,
                options={
                    "images": "cifar10",
                    "patch": 4,
                    "layers": 6,
                    "heads": 8,
                    "width": 256,
                    "dropout": 0.1,
                    "train_examples": None,
                    "validation_examples": 5000,
                    "test_examples": None,
                    "noise": 0.0,
                },
                note="not of the paper: 6 layers of 256, 200 epochs",
            ),
        },
        settings=lambda model: untuned_settings(weight_decay=5e-2),
        make=make,
        schedule=warm_up_then_cosine(WARM_UP_SHARE),
    ),
}
