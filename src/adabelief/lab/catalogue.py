"""What is said of each task before it is loaded: a table that needs no framework.

A task's file takes its part of it by `about` and adds what is code: data, model, objective, settings.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A task, as `adabelief tasks` shows it."""

    file: str
    """Of the folder tasks/: where its code is."""
    summary: str
    """What it is; then, behind a comma, colon or semicolon, what the table of all tasks has no room for."""
    models: tuple[str, ...] = ()
    """What `--model` can be, the default first; empty where there is no choice."""
    folder: str = ""
    """What `--data` has to name; empty where nothing is read."""
    downloads: bool = False
    """Whether the data can be downloaded instead."""
    more: str = ""
    """What else there is to say of the data."""
    extra: str = "lab"
    """What of the package it needs."""

    @property
    def data(self) -> str:
        """What `--data` has to name, and what happens without it; empty where nothing is read."""
        download = "; without it, a download by the datasets library" if self.downloads else ""
        return f"{self.folder}{download}{self.more}"


PARQUET = "a folder with train*.parquet and test*.parquet"
IDX = "MNIST's own files (train-images-idx3-ubyte, ...)"
CIFAR_10 = f"{PARQUET}, or with cifar-10-batches-py"
TEXTS = "a folder with train.txt, valid.txt and test.txt, of words with spaces between"
CIFAR_100 = f"{PARQUET}, or with cifar-100-python"
CIFAR_MODELS = ("vgg11", "resnet34", "densenet121")

CATALOGUE = {
    "toy": Entry(
        "toy",
        "the paper's six functions of two variables; the report draws the paths and an animation",
        models=("cone", "valley", "bowl", "steep", "beale", "rosenbrock"),
    ),
    "digits": Entry("digits", "scikit-learn's 1,797 handwritten digits, a small convolutional network; embedded"),
    "cifar10": Entry(
        "images",
        "CIFAR-10, as in the paper: 200 epochs, the learning rate divided by 10 after 150",
        models=CIFAR_MODELS,
        folder=CIFAR_10,
        downloads=True,
    ),
    "cifar100": Entry(
        "images",
        "CIFAR-100, as in the paper: 200 epochs, the learning rate divided by 10 after 150",
        models=CIFAR_MODELS,
        folder=CIFAR_100,
        downloads=True,
    ),
    "cifar10-cnn": Entry(
        "cnn",
        "CIFAR-10 with a small convolutional network of 16, 32 and 64 channels; learning rates to be searched",
        folder=CIFAR_10,
        downloads=True,
        more=" (smoke: embedded)",
    ),
    "fashion-mnist": Entry(
        "cnn",
        "Fashion-MNIST with a small convolutional network of 16, 32 and 64 channels; learning rates to be searched",
        folder=f"{PARQUET}, or with {IDX}",
        downloads=True,
        more=" (smoke: embedded)",
    ),
    "imagenet": Entry(
        "images",
        "ImageNet, as in the paper: ResNet18, 90 epochs, the learning rate divided by 10 after 70 and 80",
        models=(
            *("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2"),
            *("densenet121", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"),
            *("shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet1_0", "efficientnet_b0", "efficientnet_v2_s"),
            *("regnet_y_400mf", "convnext_tiny", "vit_b_16", "swin_t"),
        ),
        folder="a folder with train/ and val/, a folder for each class in them, or with parquet files",
    ),
    "ptb-lstm": Entry(
        "language",
        "Penn Treebank with AWD-LSTMs, as in the paper: 200 epochs, the learning rate divided by 10 after 100 and 145",
        models=("1-layer", "2-layer", "3-layer"),
        folder=TEXTS,
        downloads=True,
        more=" (smoke: embedded)",
    ),
    "charlm": Entry(
        "characters",
        "a small GPT on the characters of four chapters of Alice's Adventures in Wonderland; study: of Penn Treebank",
        folder=TEXTS,
        downloads=True,
        more=" (smoke, small: embedded)",
    ),
    "char-lstm": Entry(
        "characters",
        "a small LSTM on the characters of Penn Treebank; learning rates to be searched",
        folder=TEXTS,
        downloads=True,
        more=" (smoke: embedded)",
    ),
    "wgan": Entry(
        "gans",
        "WGAN on CIFAR-10, as in the paper: DCGAN's networks, 5 steps of the critic, its weights clipped at 0.01",
        folder=CIFAR_10,
        downloads=True,
    ),
    "wgan-gp": Entry(
        "gans",
        "WGAN-GP on CIFAR-10, as in the paper: the same with a gradient penalty instead of clipping",
        folder=CIFAR_10,
        downloads=True,
    ),
    "sngan": Entry(
        "gans",
        "SN-GAN on CIFAR-10, as in the paper: residual networks, spectral normalization, hinge loss, by class",
        folder=CIFAR_10,
        downloads=True,
    ),
    "dcgan": Entry(
        "gans",
        "DCGAN on CIFAR-10 at Adam's plain defaults, learning rate 0.001 and beta1 0.9, where it may collapse",
        folder=CIFAR_10,
        downloads=True,
    ),
    "translation": Entry(
        "translation",
        "German to English by a Transformer, as in the paper; batches are counted in tokens, BLEU is sacreBLEU's, "
        "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp",
        folder="a folder with train, valid and test as .de and .en, or .de.gz and .en.gz",
        downloads=True,
        more="; smoke needs none",
    ),
    "vit": Entry(
        "vit",
        "CIFAR-10 with a small vision transformer; decoupled decay, learning rates to be searched",
        folder=CIFAR_10,
        downloads=True,
        more=" (smoke: embedded)",
    ),
    "keras-cnn": Entry(
        "keras_cnn",
        "MNIST with a small convolutional network in Keras, as in the authors' notebook: 200 steps",
        folder=f"{PARQUET}, or with {IDX}",
        downloads=True,
        more=" (smoke: embedded). Fashion-MNIST: --set images=fashion-mnist",
        extra="lab,keras",
    ),
    "rl-sac": Entry(
        "rl",
        "soft actor-critic on a MuJoCo task: networks of 256-256, one step of each optimizer a step",
        models=("HalfCheetah-v5", "Walker2d-v5"),
        extra="rl",
    ),
    "rl-atari": Entry(
        "rl",
        "a deep Q-network on an Atari game, with little data: 100,000 steps",
        models=("SpaceInvaders",),
        extra="rl",
    ),
}


def about(name: str) -> dict[str, Any]:
    """A task's entry, as arguments for its `Task`."""
    entry = CATALOGUE[name]
    return dict(name=name, summary=entry.summary, models=entry.models, data=entry.data)
