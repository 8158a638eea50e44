"""What the catalogue says of a task is what its code has."""

from __future__ import annotations

import pytest
import torchvision

from adabelief.lab.catalogue import CATALOGUE
from adabelief.lab.models.images import MODELS
from adabelief.lab.tasks import language, task, toy, translation

CODE = {
    "toy": toy.FUNCTIONS,
    "cifar10": MODELS,
    "cifar100": MODELS,
    "imagenet": torchvision.models.list_models(),
    "ptb-lstm": language.LAYERS,
}
"""The models that a task's code has, of those whose code lists them."""


@pytest.mark.parametrize("name", CATALOGUE)
def test_entries(name):
    found, entry = task(name), CATALOGUE[name]
    assert (found.name, found.summary, found.models, found.data) == (name, entry.summary, entry.models, entry.data)
    for model in found.models or ("",):
        assert "smoke" in found.scales(model)
        assert "AdaBelief" in found.settings(model)


@pytest.mark.parametrize("name", CODE)
def test_models(name):
    models = CATALOGUE[name].models
    assert set(models) <= set(CODE[name])
    assert name == "imagenet" or list(models) == list(CODE[name])


def test_how_bleu_is_counted_is_said():
    assert translation.SIGNATURE in CATALOGUE["translation"].summary
