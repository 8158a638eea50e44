import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from adabelief.lab.optimizers import METHODS
from adabelief.lab.tasks import digits


@pytest.fixture(scope="module")
def task():
    return digits.task()


def pixels(examples):
    return {image.numpy().tobytes() for image in examples.inputs}


def test_split_is_disjoint_and_complete(task):
    parts = [task.train, task.validation, task.test]
    assert [len(part.labels) for part in parts] == [1197, 300, 300]
    images = [pixels(part) for part in parts]
    assert len(set.union(*images)) == sum(map(len, images)) == len(np.unique(load_digits().data, axis=0)) == 1797


def test_split_is_stratified(task):
    for part in (task.train, task.validation, task.test):
        shares = torch.bincount(part.labels, minlength=10) / len(part.labels)
        assert shares == pytest.approx(np.bincount(load_digits().target) / 1797, abs=0.004)


def test_split_does_not_depend_on_the_random_state(task):
    torch.manual_seed(123)
    np.random.seed(123)  # noqa: NPY002
    again = digits.task()
    for name in ("train", "validation", "test"):
        for one, other in zip(getattr(task, name), getattr(again, name), strict=True):
            assert torch.equal(one, other)


def test_standardization_is_that_of_the_training_images(task):
    assert task.train.inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert task.train.inputs.std().item() == pytest.approx(1, abs=1e-3)
    assert abs(task.test.inputs.mean().item()) > 1e-4


def test_images_keep_their_labels(task):
    source = load_digits()
    scale = {value: i for i, value in enumerate(np.unique(task.train.inputs.numpy()))}
    labels = {image.astype(int).tobytes(): label for image, label in zip(source.data, source.target, strict=True)}
    for image, label in zip(task.test.inputs.numpy(), task.test.labels.tolist(), strict=True):
        original = np.array([scale[value] for value in image.ravel()])
        assert labels[original.tobytes()] == label


def test_every_optimizer_has_settings(task):
    assert task.settings.keys() == METHODS.keys()


def test_model_classifies(task):
    assert digits.model()(task.test.inputs[:7]).shape == (7, 10)
