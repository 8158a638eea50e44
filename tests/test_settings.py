"""The published rows, and what is said of those that do not exist."""

from __future__ import annotations

import pytest
import torch

from adabelief import AdaBelief, eps_from_adam, recommended
from adabelief.rule import denominator_floor
from adabelief.settings import SETTINGS

PUBLISHED = {
    "cifar": (1e-3, (0.9, 0.999), 1e-8, 5e-4, False, False),
    "imagenet": (1e-3, (0.9, 0.999), 1e-8, 1e-2, True, False),
    "gan-small": (2e-4, (0.5, 0.999), 1e-12, 0.0, False, False),
    "sn-gan": (2e-4, (0.5, 0.999), 1e-16, 0.0, False, True),
    "transformer": (1.5e-3, (0.9, 0.98), 1e-12, 1e-4, True, True),
    "lstm-1": (1e-3, (0.9, 0.999), 1e-16, 1.2e-6, False, False),
    "lstm-2": (1e-2, (0.9, 0.999), 1e-12, 1.2e-6, False, False),
    "lstm-3": (1e-2, (0.9, 0.999), 1e-12, 1.2e-6, False, False),
    "detection": (1e-4, (0.9, 0.999), 1e-8, 1e-4, False, False),
    "transformer-fairseq": (5e-4, (0.9, 0.999), 1e-16, 1e-4, True, True),
    "rl-rainbow": (1e-4, (0.9, 0.999), 1e-10, 0.0, False, True),
    "rl-halfcheetah": (1e-3, (0.9, 0.999), 1e-12, 0.0, False, True),
}


@pytest.mark.parametrize("task", PUBLISHED)
def test_rows(task):
    names = ("lr", "betas", "eps", "weight_decay", "weight_decouple", "rectify")
    assert recommended(task) == dict(zip(names, PUBLISHED[task], strict=True))
    group = AdaBelief([torch.nn.Parameter(torch.ones(1))], **recommended(task)).param_groups[0]
    assert {name: group[name] for name in names} == recommended(task)
    assert SETTINGS[task].source


def test_nothing_else_is_recommended():
    assert set(SETTINGS) == set(PUBLISHED)


def test_unknown_task_lists_what_there_is():
    with pytest.raises(ValueError, match=r"'resnet'.*cifar, imagenet, .*lstm-3"):
        recommended("resnet")


def test_eps_from_adam():
    assert eps_from_adam(1e-8) == pytest.approx(1e-16)
    assert eps_from_adam(1e-5) == pytest.approx(1e-10)
    # Adam's eps bounds its denominator; the squared one bounds AdaBelief's, up to the factor of the average
    assert denominator_floor(eps_from_adam(1e-4), 0.999) == pytest.approx(1e-4 / 0.001**0.5, rel=1e-3)
    with pytest.raises(ValueError, match=r"eps.*-1"):
        eps_from_adam(-1)
