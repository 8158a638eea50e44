"""Image classification as in the paper: CIFAR-10 and CIFAR-100 with three networks, ImageNet with ResNet18."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

from adabelief.lab.catalogue import about
from adabelief.lab.data.cifar import CIFAR, cifar
from adabelief.lab.data.examples import Examples, Split, mislabelled
from adabelief.lab.data.images import augment, image_folder, normalize
from adabelief.lab.models.images import MODELS
from adabelief.lab.schedules import divide_at
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Settings, Task, Workload, and_rivals
from adabelief.lab.trainer import Trainer
from adabelief.settings import recommended

EVALUATION_BATCH = 500


def cifar_settings() -> Settings:
    """What the authors ran on CIFAR-10, from their code and the names of their logs; from EAdam on they are ours."""
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    belief = recommended("cifar")
    settings = and_rivals(
        {
            "AdaBelief": belief,
            "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
            "Adam": {**adam, "weight_decay": 5e-4},
            "AdamW": {**adam, "weight_decay": 1e-2},
            "RAdam": {**adam, "weight_decay": 5e-4},
            "AdaBound": {**adam, "weight_decay": 5e-4, "final_lr": 0.1, "gamma": 1e-3},
            "Yogi": {**adam, "eps": 1e-3, "weight_decay": 5e-4, "initial_accumulator": 1e-6},
            "MSVAG": {"lr": 0.1, "beta": 0.9, "weight_decay": 5e-4},
            "Fromage": {"lr": 0.01},
            "EAdam": {**adam, "eps": belief["eps"], "weight_decay": belief["weight_decay"]},
        },
        weight_decay=1e-2,
    )
    return {**settings, "AdamW-same-decay": {**adam, "weight_decay": belief["weight_decay"]}}


def imagenet_settings() -> Settings:
    """What the authors wired on ImageNet for SGD, AdaBound (without decay) and AdamW, of which they ran none.

    AdaBelief they ran, and MSVAG, which is not here (65.99). RAdam's decay of 1e-2, Adam, EAdam and those behind it are
    ours. AdaBelief's decay is AdamW's here, decoupled: its control is EAdamW.
    """
    adam = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}
    belief = recommended("imagenet")
    return and_rivals(
        {
            "AdaBelief": belief,
            "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
            "Adam": {**adam, "weight_decay": 1e-4},
            "AdamW": {**adam, "weight_decay": 1e-2},
            "RAdam": {**adam, "weight_decay": 1e-2},
            "AdaBound": {**adam, "final_lr": 0.1, "gamma": 1e-3},
            "EAdam": {**adam, "eps": belief["eps"], "weight_decay": 1e-4},
        },
        weight_decay=1e-2,
    )


class Classifier(Workload):
    """Cross-entropy and accuracy of one module, `model`, on batches of images and labels."""

    def held_out(self, part: str) -> Iterator[Examples]:
        """The batches of a part, "validation" or "test", in which the model is evaluated."""
        raise NotImplementedError

    def loss(self, batch: Examples) -> Tensor:
        """Mean cross-entropy."""
        return cross_entropy(self.modules["model"](batch.inputs), batch.labels)

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Loss and accuracy in % on the held-out sets that are asked for, and their sizes."""
        return {name: x for part in trainer.held_out for name, x in self._measure(part, trainer).items()}

    def _measure(self, part: str, trainer: Trainer) -> dict[str, float]:
        """Sums over the batches, every process its share of them."""
        totals, hits = torch.zeros(3, dtype=torch.float64), [torch.zeros(0, dtype=torch.bool)]
        with trainer.evaluating() as modules:
            for i, batch in enumerate(self.held_out(part)):
                if i % trainer.accelerator.num_processes != trainer.accelerator.process_index:
                    continue
                inputs, labels = trainer.to_device(batch)
                outputs = modules["model"](inputs).float()
                loss = cross_entropy(outputs, labels, reduction="sum").double()
                right = outputs.argmax(1) == labels
                hits.append(right.cpu())
                correct = right.sum().double()
                totals += torch.stack([loss, correct, correct.new_tensor(len(labels))]).cpu()
        self.hits = {**self.hits, part: torch.cat(hits)}
        loss, correct, n = trainer.sum(totals).tolist()
        return {f"{part}_loss": loss / n, f"{part}_accuracy": 100 * correct / n, f"{part}_examples": int(n)}


class Classification(Classifier):
    """Images in memory.

    Args:
        request: Seed and batch size; `noise` among the options, the share of the training labels that are made wrong.
        split: The images.
        model: Maps images to logits.
        prepare: Makes a training batch's images what the model takes, from a generator of the epoch.
        standardize: The same for evaluation.
    """

    def __init__(
        self,
        request: Request,
        split: Split,
        model: nn.Module,
        prepare: Callable[[Tensor, torch.Generator], Tensor] = lambda images, generator: images,
        standardize: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        self.modules = {"model": model.to(memory_format=torch.channels_last)}
        self._seed, self._batch_size = request.seed, request.batch_size
        self._split = split._replace(train=mislabelled(split.train, request.options.get("noise", 0.0)))
        self._prepare, self._standardize = prepare, standardize
        self.steps_per_epoch = -(-len(split.train.labels) // request.batch_size)

    def batches(self, epoch: int) -> Iterator[Examples]:
        """All images in an order drawn from seed and epoch; the last batch may be smaller."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        images, labels = self._split.train
        order = torch.randperm(len(labels), generator=generator)
        for indices in torch.split(order, self._batch_size):
            yield Examples(self._prepare(images[indices], generator), labels[indices])

    def held_out(self, part: str) -> Iterator[Examples]:
        """The part's images, standardized."""
        for images, labels in zip(*(torch.split(x, EVALUATION_BATCH) for x in getattr(self._split, part)), strict=True):
            yield Examples(self._standardize(images), labels)


def make_cifar(request: Request, name: str, network: Callable[[Request, int], nn.Module]) -> Classification:
    """CIFAR-10 or CIFAR-100, augmented, for what `network` makes of a request and the number of classes."""
    options, which = request.options, CIFAR[name]
    split = cifar(
        name,
        request.data,
        train_examples=options["train_examples"],
        validation_examples=options["validation_examples"],
        test_examples=options["test_examples"],
    )
    standardize = partial(normalize, mean=which.mean, std=which.std)

    def prepare(images: Tensor, generator: torch.Generator) -> Tensor:
        return standardize(augment(images, generator))

    return Classification(request, split, network(request, which.classes), prepare, standardize)


def _network(request: Request, classes: int) -> nn.Module:
    return MODELS[request.model](classes, request.options["width"])


class FolderClassification(Classifier):
    """Images of files, read by workers.

    Args:
        request: Seed, batch size; `workers` among the options.
        parts: Training, validation and test images, of tensors and labels.
        model: Maps images to logits.
    """

    def __init__(self, request: Request, parts: Sequence[Dataset[Any]], model: nn.Module) -> None:
        self.modules = {"model": model}
        self._seed, self._batch_size, self._workers = request.seed, request.batch_size, request.options["workers"]
        self._parts = dict(zip(("train", "validation", "test"), parts, strict=True))
        self.steps_per_epoch = -(-len(parts[0]) // request.batch_size)  # type: ignore[arg-type]

    def batches(self, epoch: int) -> Iterator[Examples]:
        """All images in an order drawn from seed and epoch, augmented by the workers' own generators."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        yield from self._load("train", self._batch_size, generator)

    def held_out(self, part: str) -> Iterator[Examples]:
        """The part's images, in their order."""
        return self._load(part, EVALUATION_BATCH)

    def _load(self, part: str, size: int, generator: torch.Generator | None = None) -> Iterator[Examples]:
        loader = DataLoader(
            self._parts[part],
            batch_size=size,
            shuffle=generator is not None,
            num_workers=self._workers,
            generator=generator or torch.Generator().manual_seed(0),
        )
        for images, labels in loader:
            yield Examples(images, labels)


def _make_imagenet(request: Request) -> FolderClassification:
    options = request.options
    if request.data is None:
        raise ValueError("imagenet cannot be downloaded: name a folder that has train/ and val/, with --data FOLDER")
    parts = image_folder(request.data, size=options["size"], validation_share=options["validation_share"])
    model = torchvision.models.get_model(request.model, num_classes=parts.classes)
    return FolderClassification(request, parts[:3], model)


_SMALL = {"vgg11": (0.5, 10), "resnet34": (0.125, 8), "densenet121": (0.125, 4)}
"""Width and epochs that keep a run in minutes on two cores."""

_QUESTIONS = {"noise": 0.0, **QUESTIONS, "schedule": "3/4"}

STUDY_CIFAR = {
    **{"train_examples": 10_000, "validation_examples": 5000, "test_examples": None},
    **{"noise": 0.0, **QUESTIONS},
}
"""How many images of CIFAR a study learns from and is judged by, and what it may ask."""


def _cifar_scales(model: str) -> dict[str, Scale]:
    width, epochs = _SMALL[model]

    def options(width: float, train: int | None, validation: int = 5000, test: int | None = None) -> dict[str, Any]:
        sizes = {"train_examples": train, "validation_examples": validation, "test_examples": test}
        return {"width": width, **sizes, **_QUESTIONS}

    return {
        "smoke": Scale(
            epochs=2,
            batch_size=64,
            options=options(0.125, 256, 100, 100),
            note="256 training, 100 validation and 100 test images, an eighth of the channels, 2 epochs: it shows that "
            "everything runs",
        ),
        "small": Scale(
            epochs=epochs,
            batch_size=128,
            options=options(width, 5000),
            note=f"5,000 training images, {width:g} of the channels, {epochs} epochs instead of 200",
        ),
        "paper": Scale(
            epochs=200,
            batch_size=128,
            options=options(1.0, None),
            note="45,000 of the 50,000 training images, since 5,000 are for validation: the authors had all of them, "
            "and picked epochs on the test set",
        ),
    }


_IMAGENET = {**QUESTIONS, "schedule": "70/80"}

TASKS = {
    **{
        name: Task(
            **about(name),
            metric=Metric("accuracy", "%"),
            scales=_cifar_scales,
            settings=lambda model: cifar_settings(),
            make=partial(make_cifar, name=name, network=_network),
            schedule=divide_at(0.75),
        )
        for name in ("cifar10", "cifar100")
    },
    "imagenet": Task(
        **about("imagenet"),
        metric=Metric("accuracy", "%"),
        scales=lambda model: {
            "smoke": Scale(
                epochs=1,
                batch_size=16,
                options={"size": 32, "validation_share": 0.25, "workers": 1, **_IMAGENET},
                note="any folder of images, at 32×32 pixels, 1 epoch: it shows that everything runs, no more",
            ),
            "small": Scale(
                epochs=9,
                batch_size=64,
                options={"size": 64, "validation_share": 0.05, "workers": 2, **_IMAGENET},
                note="64×64 pixels and 9 instead of 90 epochs",
            ),
            "paper": Scale(
                epochs=90,
                batch_size=256,
                options={"size": 224, "validation_share": 0.04, "workers": 16, **_IMAGENET},
                note="96 % of the training images, since the rest is for validation",
            ),
        },
        settings=lambda model: imagenet_settings(),
        make=_make_imagenet,
        schedule=divide_at(70 / 90, 80 / 90),
    ),
}
