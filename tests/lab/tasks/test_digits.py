import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from adabelief.lab import optimizers
from adabelief.lab.tasks import digits


@pytest.fixture(scope="module")
def images():
    return digits.images()


def pixels(examples):
    return {image.numpy().tobytes() for image in examples.inputs}


def test_split_is_disjoint_and_complete(images):
    parts = [images.train, images.validation, images.test]
    assert [len(part.labels) for part in parts] == [1197, 300, 300]
    seen = [pixels(part) for part in parts]
    assert len(set.union(*seen)) == sum(map(len, seen)) == len(np.unique(load_digits().data, axis=0)) == 1797


def test_split_is_stratified(images):
    for part in (images.train, images.validation, images.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert shares == pytest.approx(np.bincount(load_digits().target) / 1797, abs=0.004)


def test_split_does_not_depend_on_the_random_state(images):
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    again = digits.images()
    for name in ("train", "validation", "test"):
        for one, other in zip(getattr(images, name), getattr(again, name), strict=True):
            assert torch.equal(one, other)


def test_standardization_is_that_of_the_training_images(images):
    assert images.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert images.train.inputs.std().item() == pytest.approx(1, abs=1e-3)
    assert abs(images.test.inputs.mean().item()) > 1e-4


def test_images_keep_their_labels(images):
    source = load_digits()
    scale = {value: i for i, value in enumerate(np.unique(images.train.inputs.numpy()))}
    labels = {image.astype(int).tobytes(): label for image, label in zip(source.data, source.target, strict=True)}
    for image, label in zip(images.test.inputs.numpy(), images.test.labels.tolist(), strict=True):
        original = np.array([scale[value] for value in image.ravel()])
        assert labels[original.tobytes()] == label


def test_settings_are_of_optimizers_that_there_are():
    task = digits.TASKS["digits"]
    for name, settings in task.settings("").items():
        optimizers.check(name, settings)


def test_model_classifies(images):
    assert digits.model()(images.test.inputs[:7]).shape == (7, 10)
