"""The tasks on images, on little folders of the real layouts."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from adabelief.lab.data.cifar import CIFAR
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.folder import RunFolder
from adabelief.lab.optimizers import check
from adabelief.lab.task import Request
from adabelief.lab.tasks import task
from adabelief.lab.trainer import Moment
from tests.lab.data.pictures import cache, write_cifar  # noqa: F401 - a fixture

FEW = {"train_examples": 100, "validation_examples": 40, "test_examples": 30}


@pytest.fixture
def cifar(tmp_path):
    write_cifar(tmp_path / "cifar", train=200, test=50)
    return tmp_path / "cifar"


@pytest.fixture
def folder(tmp_path):
    generator = torch.Generator().manual_seed(0)
    for part, each in (("train", 12), ("val", 5)):
        for name in ("cat", "dog"):
            (tmp_path / "images" / part / name).mkdir(parents=True)
            for i in range(each):
                pixels = torch.randint(256, (40, 48, 3), generator=generator, dtype=torch.uint8)
                Image.fromarray(pixels.numpy()).save(tmp_path / "images" / part / name / f"{i}.png")
    return tmp_path / "images"


@pytest.mark.parametrize("model", ["vgg11", "resnet34", "densenet121"])
def test_cifar_runs(tmp_path, cifar, model):
    configs = plan(task("cifar10"), model=model, scale="smoke", changes={**FEW, "width": 0.0625})
    ((config, result),) = session.run(task("cifar10"), configs, tmp_path / "runs", data=cifar, cpu=True)
    line = json.loads(RunFolder(tmp_path / "runs" / config.folder).metrics.read_text().splitlines()[-1])
    assert (line["validation_examples"], line["test_examples"]) == (40, 30)
    assert 0 <= result["last_test"] <= 100
    assert line["step"] == 2 * 2


def test_training_images_are_augmented_anew_every_epoch_and_alike_for_a_seed(cifar):
    (config,) = plan(task("cifar10"), model="vgg11", scale="smoke", changes=FEW)
    experiments = [
        task("cifar10").make(Request("vgg11", seed, config.batch_size, {**config.options, "width": 0.0625}, cifar))
        for seed in (0, 0, 1)
    ]
    (a, b, c), (again, *_) = (
        [torch.cat([batch.inputs for batch in workload.batches(epoch)]) for workload in experiments] for epoch in (0, 1)
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, again)
    assert a.shape == (100, 3, 32, 32)


def test_evaluation_sees_images_as_they_are(cifar):
    (config,) = plan(task("cifar10"), model="vgg11", scale="smoke", changes=FEW)
    workload = task("cifar10").make(Request("vgg11", 0, 64, {**config.options, "width": 0.0625}, cifar))
    (batch,) = workload.held_out("test")
    mean, std = (torch.tensor(x).view(3, 1, 1) for x in (CIFAR["cifar10"].mean, CIFAR["cifar10"].std))
    pixels = ((batch.inputs * std + mean) * 255).round().to(torch.uint8)
    assert torch.equal(pixels, workload._split.test.inputs)


def test_imagenet_runs_on_any_folder(tmp_path, folder):
    configs = plan(task("imagenet"), model="squeezenet1_1", scale="smoke", changes={"size": 64})
    ((config, result),) = session.run(task("imagenet"), configs, tmp_path / "runs", data=folder, cpu=True)
    assert config.settings["weight_decouple"] is True
    line = json.loads(RunFolder(tmp_path / "runs" / config.folder).metrics.read_text().splitlines()[-1])
    assert (line["validation_examples"], line["test_examples"], line["step"]) == (6, 10, 2)
    assert result["parameters"] > 700_000


def test_imagenet_says_what_it_needs(tmp_path):
    with pytest.raises(ValueError, match=r"imagenet cannot be downloaded.*--data FOLDER"):
        session.run(task("imagenet"), plan(task("imagenet"), scale="smoke"), tmp_path, cpu=True)


def test_resnet18_is_the_paper_s():
    import torchvision

    model = torchvision.models.get_model("resnet18", num_classes=1000)
    assert sum(p.numel() for p in model.parameters()) == 11_689_512


@pytest.mark.parametrize(
    ("name", "drops"), [("cifar10", {150: 0.1}), ("cifar100", {150: 0.1}), ("imagenet", {70: 0.1, 80: 0.01})]
)
def test_schedules_are_the_paper_s(name, drops):
    wanted = task(name)
    epochs = wanted.scales(wanted.models[0])["paper"].epochs
    factor = 1.0
    for epoch in range(epochs):
        factor = drops.get(epoch, factor)
        assert wanted.schedule(Moment(epoch, epochs, 0)) == pytest.approx(factor)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "imagenet"])
def test_settings_are_arguments_of_the_optimizers(name):
    wanted = task(name)
    for model in wanted.models:
        for optimizer, settings in wanted.settings(model).items():
            check(optimizer, settings)


def test_there_is_no_such_task():
    with pytest.raises(ValueError, match="TASK: there is no 'mnist' here; there are toy, digits, cifar10"):
        task("mnist")
