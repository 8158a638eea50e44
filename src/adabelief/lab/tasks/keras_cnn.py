"""A small convolutional network on MNIST in Keras: the authors' TensorFlow notebook, on any of Keras's backends.

The optimizers are those of `adabelief.keras` and `keras.optimizers`. The engine's, of PyTorch, never step: they tell
which one was asked for, with which settings, and the learning rate of the moment.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate

from adabelief.lab.catalogue import about
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.data.mnist import CLASSES, SIZE, mnist
from adabelief.lab.optimizers import FORMS
from adabelief.lab.schedules import constant
from adabelief.lab.task import Metric, Request, Scale, Settings, Task, Workload, refuse_parts
from adabelief.lab.tasks import digits
from adabelief.lab.trainer import Trainer

# Before anything imports Keras: TensorBoard's writer imports TensorFlow where there is one, and that Keras.
os.environ.setdefault("KERAS_BACKEND", "torch")

EVALUATION_BATCH = 500

_ADAM = ("lr", "betas", "eps", "amsgrad")

ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "AdaBelief": (*_ADAM, "weight_decay", "weight_decouple", "fixed_decay", "rectify", "degenerated_to_sgd"),
    "SGD": ("lr", "momentum", "nesterov"),
    "Adam": _ADAM,
    "AdamW": (*_ADAM, "weight_decay"),
    "RMSprop": ("lr", "alpha", "eps", "momentum", "centered"),
}
"""The arguments that PyTorch's optimizers and Keras's share.

Where eps is added differs a little: in Keras's Adam before the bias correction, in its RMSprop under the root.
"""

NAMES = {"lr": "learning_rate", "eps": "epsilon", "alpha": "rho"}
"""What some of them are called in Keras."""


def network() -> Any:
    """Convolutions of 32 5×5 and 64 3×3 filters, each with ReLU and 2×2 max-pooling; 1,024 units; dropout; 10 logits.

    There is no activation behind the 1,024 units, as in the notebook.
    """
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((SIZE, SIZE, 1)),
            layers.Conv2D(32, 5, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(1024),
            layers.Dropout(0.5),
            layers.Dense(CLASSES),
        ]
    )


class Weights(nn.Module):
    """The weights of a Keras model as a module, on any backend: what the engine counts and keeps in checkpoints."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.weights = nn.ParameterList(map(torch.tensor, model.get_weights()))
        self._model = [model]  # not a submodule, which it would be on the PyTorch backend

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The model's weights as they are now."""
        for weight, value in zip(self.weights, self._model[0].get_weights(), strict=True):
            weight.data.copy_(torch.from_numpy(value))
        return super().state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Gives the model these weights."""
        found = super().load_state_dict(*args, **kwargs)
        self._model[0].set_weights([x.detach().cpu().numpy() for x in self.weights])
        return found


def optimizer_of(asked: Any) -> Any:
    """Keras's optimizer for a PyTorch optimizer's class and settings.

    Raises:
        ValueError: If Keras's has no such option, or means something else by it.
    """
    import keras

    import adabelief.keras

    kind, (group,) = type(asked), asked.param_groups
    known, usual = ARGUMENTS[kind.__name__], signature(kind).parameters
    for name in usual.keys() & group.keys() - {"params", *FORMS, *known}:  # Keras has a form of its own
        if group[name] != usual[name].default:
            raise ValueError(
                f"{name}={group[name]!r}: Keras's {kind.__name__} has no such option, or means something else by it; "
                f"it takes {', '.join(known)}"
            )
    arguments = {NAMES.get(name, name): group[name] for name in known if name != "betas"}
    if "betas" in known:
        arguments["beta_1"], arguments["beta_2"] = group["betas"]
    module = adabelief.keras if kind.__name__ == "AdaBelief" else keras.optimizers
    return getattr(module, kind.__name__)(**arguments)


class KerasClassification(Workload):
    """Images in memory and a Keras model that makes its own steps.

    Args:
        request: Seed and batch size; `steps` of an epoch among the options, None for all images once.
        split: Images (n, 1, 28, 28) from 0 to 1.
        model: Maps images (n, 28, 28, 1) to logits.
    """

    def __init__(self, request: Request, split: Split, model: Any) -> None:
        self.modules = {"model": Weights(model)}
        self._seed, self._batch_size, self._split, self._model = request.seed, request.batch_size, split, model
        whole = -(-len(split.train.labels) // request.batch_size)
        self.steps_per_epoch = min(request.options["steps"] or whole, whole)
        self._saved: dict[str, Any] = {}

    def batches(self, epoch: int) -> Iterator[Examples]:
        """Images in an order drawn from seed and epoch, as many as the epoch has steps for."""
        images, labels = self._split.train
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        order = torch.randperm(len(labels), generator=generator)
        for indices in torch.split(order, self._batch_size)[: self.steps_per_epoch]:
            yield Examples(images[indices], labels[indices])

    def step(self, batch: Examples, trainer: Trainer) -> Tensor:
        """The model's own training step, with the learning rate that the engine has set."""
        refuse_parts(trainer)
        asked = trainer.optimizers["model"]
        with device():
            if not self._model.compiled:
                self._compile(asked.optimizer, trainer)
            self._model.optimizer.learning_rate = asked.param_groups[0]["lr"]
            return torch.tensor(self._model.train_on_batch(_pixels(batch.inputs), batch.labels.numpy()))

    def _compile(self, asked: Any, trainer: Trainer) -> None:
        import keras

        optimizer = optimizer_of(asked)
        optimizer.build(self._model.trainable_variables)
        if self._saved:
            optimizer.load_own_variables(self._saved)
        if keras.backend.backend() == "torch":  # the others compile a whole step
            optimizer.apply = _timed(optimizer.apply, trainer.optimizer_seconds)
        self._model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Loss and accuracy in % on both sets, and their sizes."""
        measured: dict[str, float] = {}
        for part in ("validation", "test"):
            images, labels = getattr(self._split, part)
            with device():
                logits = [self._model.predict_on_batch(_pixels(x)) for x in torch.split(images, EVALUATION_BATCH)]
            predicted = torch.from_numpy(np.concatenate(logits)).float()
            measured[f"{part}_loss"] = cross_entropy(predicted, labels).item()
            measured[f"{part}_accuracy"] = 100 * (predicted.argmax(1) == labels).double().mean().item()
            measured[f"{part}_examples"] = len(labels)
        return measured

    def state_dict(self) -> dict[str, Any]:
        """What Keras keeps beside the weights: the optimizer's variables, and where its random generators are."""
        optimizer: dict[str, Any] = {}
        self._model.optimizer.save_own_variables(optimizer)
        return {"optimizer": optimizer, "generators": [v.numpy() for v in self._model.non_trainable_variables]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes it up again; the optimizer will, once it is there."""
        self._saved = state["optimizer"]
        for variable, value in zip(self._model.non_trainable_variables, state["generators"], strict=True):
            variable.assign(value)


def device() -> AbstractContextManager[Any]:
    """Keeps Keras on the CPU where the engine is; elsewhere it finds the accelerator by itself."""
    import keras

    on_cpu: AbstractContextManager[Any] = keras.device("cpu")
    return on_cpu if PartialState().device.type == "cpu" else nullcontext()


def _timed(apply: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> None:
        start = time.perf_counter()
        apply(*args, **kwargs)
        seconds.append(time.perf_counter() - start)

    return timed


def _pixels(images: Tensor) -> Any:
    """(n, 1, h, w) as NumPy's (n, h, w, 1)."""
    return images.movedim(1, -1).numpy()


def digit_images() -> Split:
    """scikit-learn's digits, from 8×8 to 28×28 pixels, from 0 to 1."""
    split = digits.intensities()
    return Split(*(Examples(interpolate(x, size=(SIZE, SIZE), mode="bilinear"), y) for x, y in split))


def _make(request: Request) -> KerasClassification:
    try:
        importlib.import_module("keras")
    except (ImportError, ValueError) as error:
        raise ValueError(
            f"Keras or its backend {os.environ['KERAS_BACKEND']!r} is missing or does not work ({error}): pip install "
            "'adabelief[lab,keras]', and set KERAS_BACKEND to torch, jax or tensorflow, whichever is there"
        ) from error
    options = request.options
    digits_asked = options["images"] == "digits"
    split = digit_images() if digits_asked else mnist(request.data, options["validation_examples"], options["images"])
    with device():
        return KerasClassification(request, split, network())


def keras_settings() -> Settings:
    """The notebook's for AdaBelief and Adam's in the code that it is made from; the others are ours."""
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-7}
    return {
        "AdaBelief": {**adam, "eps": 1e-14},
        "SGD": {"lr": 1e-2, "momentum": 0.9},
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-2},
        "RMSprop": {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7},
    }


_OWN = "all optimizers are Keras's or made for it"
_MNIST_SCALE = Scale(
    epochs=4,
    batch_size=128,
    options={"images": "mnist", "steps": 50, "validation_examples": 5000},
    note="55,000 of the 60,000 training images, since 5,000 are for validation, which picks the epoch after 50, 100, "
    f"150 or 200 steps; {_OWN}",
)

TASKS = {
    "keras-cnn": Task(
        **about("keras-cnn"),
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(
                epochs=2,
                batch_size=64,
                options={"images": "digits", "steps": None},
                note=f"scikit-learn's digits, enlarged to 28×28 pixels, 2 epochs; {_OWN}",
            ),
            "small": _MNIST_SCALE,
            "paper": _MNIST_SCALE,
        },
        settings=lambda model: keras_settings(),
        make=_make,
        schedule=constant,
    )
}
