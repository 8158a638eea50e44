"""GANs as in the paper: WGAN, WGAN-GP and SN-GAN on CIFAR-10; and DCGAN at Adam's plain defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from torch import nn

from adabelief.lab.catalogue import about
from adabelief.lab.data.cifar import cifar
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.models import frechet
from adabelief.lab.models.gans import (
    DCGAN_LATENT,
    SNGAN_LATENT,
    Head,
    SnganCritic,
    SnganGenerator,
    dcgan_critic,
    dcgan_generator,
)
from adabelief.lab.schedules import constant
from adabelief.lab.task import Metric, Request, Scale, Settings, Task
from adabelief.lab.tasks import digits
from adabelief.lab.tasks.adversarial import Adversarial, Game, hinge, logistic, lowest, unsaturated, wasserstein
from adabelief.settings import recommended


def _dcgan(head: Head, classes: int, channels: int, size: int, width: float) -> tuple[nn.Module, nn.Module]:
    return dcgan_generator(channels, size, width), dcgan_critic(head, channels, size, width)


def _sngan(classes: int, channels: int, size: int, width: float) -> tuple[nn.Module, nn.Module]:
    return SnganGenerator(classes, channels, size, width), SnganCritic(classes, channels, size, width)


GAMES: Mapping[str, Game] = {
    "wgan": Game(partial(_dcgan, "sigmoid"), DCGAN_LATENT, wasserstein, lowest),
    "wgan-gp": Game(partial(_dcgan, "linear"), DCGAN_LATENT, wasserstein, lowest),
    "sngan": Game(_sngan, SNGAN_LATENT, hinge, lowest),
    "dcgan": Game(partial(_dcgan, "convolution"), DCGAN_LATENT, logistic, unsaturated),
}


def _make(request: Request, name: str) -> Adversarial:
    options = request.options
    if options["images"] == "digits":
        split = Split(*(Examples(2 * images - 1, labels) for images, labels in digits.intensities()))
    else:
        split = cifar(
            options["images"],
            request.data,
            train_examples=options["train_examples"],
            validation_examples=options["validation_examples"],
            test_examples=options["test_examples"],
        )
    return Adversarial(request, split, GAMES[name])


def small_settings() -> Settings:
    """What the authors' code passes in WGAN and WGAN-GP; EAdam, with AdaBelief's eps, is ours."""
    adam, belief = {"lr": 2e-4, "betas": (0.5, 0.999), "eps": 1e-8}, recommended("gan-small")
    return {
        "AdaBelief": belief,
        "SGD": {"lr": 2e-4},
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-2},
        "RAdam": adam,
        "AdaBound": {**adam, "final_lr": 1e-2, "gamma": 1e-3},
        "Yogi": {**adam, "initial_accumulator": 1e-6},
        "MSVAG": {"lr": 2e-4, "beta": 0.5},
        "Fromage": {"lr": 2e-4},
        "RMSprop": {"lr": 2e-4, "alpha": 0.99, "eps": 1e-8},
        "EAdam": {**adam, "eps": belief["eps"]},
    }


def sngan_settings() -> Settings:
    """Those of the small GANs, but for AdaBelief, Adam's eps, as the authors' code has it, and EAdam's, AdaBelief's."""
    small, belief = small_settings(), recommended("sn-gan")
    eps = {"Adam": 1e-6, "EAdam": belief["eps"]}
    return {**small, "AdaBelief": belief, **{name: {**small[name], "eps": value} for name, value in eps.items()}}


def default_settings() -> Settings:
    """Adam's plain defaults for Adam and AdaBelief alike (eps each its own); the others at the same learning rate."""
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    belief = {**adam, "eps": 1e-16}
    return {
        "AdaBelief": belief,
        "SGD": {"lr": 1e-3},
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-2},
        "RAdam": adam,
        "RMSprop": {"lr": 1e-3, "alpha": 0.99, "eps": 1e-8},
        "EAdam": belief,
    }


_STEPS: Mapping[str, Mapping[str, Any]] = {
    "wgan": {"critic_steps": 5, "clip": 0.01, "penalty": 0.0, "coverage": 0},
    "wgan-gp": {"critic_steps": 5, "clip": 0.0, "penalty": 10.0, "coverage": 0},
    "sngan": {"critic_steps": 5, "clip": 0.0, "penalty": 0.0, "coverage": 0},
    "dcgan": {"critic_steps": 1, "clip": 0.0, "penalty": 0.0, "coverage": 2},
}


class _Small(NamedTuple):
    """What keeps a run under ten minutes on two cores: the share of the channels, epochs, passes in each."""

    width: float = 0.25
    epochs: int = 10
    passes: int = 2


_SMALL = {"wgan": _Small(), "wgan-gp": _Small(), "sngan": _Small(width=0.125, epochs=6, passes=1), "dcgan": _Small()}

_PAPER_NOTE = (
    "45,000 training images, since 5,000 of the 50,000 are for validation; 10,000 generated images are compared with "
    "these 5,000 and with the 10,000 test images"
)
_ALL_OF_THEM = (
    ", where the authors compared 64,000 with the 50,000 training images, each image scaled so that its own darkest "
    "value is black and its brightest white, which is left out here"
)
_PAPER_NOTES: Mapping[str, str] = {
    "wgan": _ALL_OF_THEM,
    "wgan-gp": _ALL_OF_THEM,
    "sngan": ", and validation picks the epoch, where the authors picked it on the test images; the generator steps "
    "from the latents of the discriminator's last step, where the authors drew new ones",
    "dcgan": "",
}


def _scales(model: str, name: str) -> dict[str, Scale]:
    residual, small = name == "sngan", _SMALL[name]
    cifar = {"images": "cifar10", "flip": residual, "validation_examples": 5000}
    digits = {"images": "digits", "flip": False, "size": 8, "width": 0.125, "passes": 1}
    pixels, published = ("", 640) if residual else ("32×32 pixels instead of 64×64, ", 100)
    return {
        "smoke": Scale(
            epochs=2,
            batch_size=64,
            options={**_STEPS[name], **digits, "samples": 300, "features": frechet.RANDOM},
            note="scikit-learn's digits, 8×8 pixels, an eighth of the channels, 2 epochs, and a distance on random "
            "features: it shows that everything runs, no more",
        ),
        "small": Scale(
            epochs=small.epochs,
            batch_size=64,
            options={
                **_STEPS[name],
                **cifar,
                "size": 32,
                "width": small.width,
                "passes": small.passes,
                "train_examples": 20_000,
                "test_examples": None,
                "samples": 2000,
                "features": frechet.RANDOM,
            },
            note=f"20,000 training images, {pixels}{small.width:g} of the channels, "
            f"{small.epochs * small.passes} passes over the images instead of {published}, 2,000 generated images in a "
            "comparison",
        ),
        "paper": Scale(
            epochs=51 if residual else 100,
            batch_size=64,
            options={
                **_STEPS[name],
                **cifar,
                "size": 32 if residual else 64,
                "width": 1.0,
                "passes": 14 if residual else 1,
                "train_examples": None,
                "test_examples": None,
                "samples": 10_000,
                "features": frechet.INCEPTION,
            },
            note=_PAPER_NOTE + _PAPER_NOTES[name],
        ),
    }


TASKS = {
    name: Task(
        **about(name),
        metric=Metric(
            "frechet",
            higher_is_better=False,
            title="Fréchet distance",
            by_options=lambda options: {"unit": frechet.label(options["features"])},
        ),
        scales=partial(_scales, name=name),
        settings=settings,
        make=partial(_make, name=name),
        schedule=constant,
    )
    for name, settings in (
        ("wgan", lambda model: small_settings()),
        ("wgan-gp", lambda model: small_settings()),
        ("sngan", lambda model: sngan_settings()),
        ("dcgan", lambda model: default_settings()),
    )
}
