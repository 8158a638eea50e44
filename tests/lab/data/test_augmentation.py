"""The order of examples by class, and what is done to images before a network sees them."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from adabelief.lab.data.cifar import CIFAR
from adabelief.lab.data.images import augment, normalize, stratified
from tests.lab.data.pictures import some_pixels


@pytest.mark.parametrize("counts", [(30, 30, 30), (70, 20, 10), (1, 50, 0, 9)])
def test_every_beginning_is_stratified(counts):
    labels = torch.repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts))]
    order = stratified(labels, seed=3)
    assert sorted(order.tolist()) == list(range(len(labels)))
    shares = torch.tensor(counts) / sum(counts)
    for k in range(1, len(labels) + 1):
        assert (labels[order[:k]].bincount(minlength=len(counts)) - k * shares).abs().max() <= 1
    assert torch.equal(order, stratified(labels, seed=3))
    assert not torch.equal(order, stratified(labels, seed=4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_augmented_images_are_crops_and_flips():
    """Every result is one of the 2 × 5² that there are for its image, and all of these come about equally often."""
    n, padding = 1000, 2
    images = torch.from_numpy(some_pixels(n, size=6)).movedim(3, 1).contiguous()
    before = images.clone()
    results = augment(images, seeded(), padding)
    assert torch.equal(images, before)
    assert (results.shape, results.dtype) == (images.shape, torch.uint8)
    found = np.zeros((5, 5, 2), int)
    for image, result in zip(images, results, strict=True):
        wide = np.zeros((3, 10, 10), np.uint8)
        wide[:, 2:8, 2:8] = image
        matches = [
            (top, left, flip)
            for top in range(5)
            for left in range(5)
            for flip in range(2)
            if np.array_equal(wide[:, top : top + 6, left : left + 6][..., :: 1 - 2 * flip], result)
        ]
        assert len(matches) == 1
        found[matches[0]] += 1
    assert found.sum() == n
    assert found.min() >= 5
    assert found.max() <= 40
    for axis in range(3):
        others = tuple({0, 1, 2} - {axis})
        expected = n / found.shape[axis]
        assert np.abs(found.sum(others) - expected).max() < 5 * expected**0.5


def test_augmentation_depends_on_the_state_of_the_generator_alone():
    images = torch.from_numpy(some_pixels(16)).movedim(3, 1)
    generator = seeded()
    state = generator.get_state()
    torch.manual_seed(1)
    one, next_one = augment(images, generator), augment(images, generator)
    torch.manual_seed(2)
    generator.set_state(state)
    assert torch.equal(augment(images, generator), one)
    assert not torch.equal(next_one, one)
    assert not torch.equal(augment(images, seeded(1)), one)


def test_without_padding_images_are_flipped_at_most():
    images = torch.from_numpy(some_pixels(64)).movedim(3, 1)
    results = augment(images, seeded(), padding=0)
    flipped = [torch.equal(result, image.flip(-1)) for image, result in zip(images, results, strict=True)]
    same = [torch.equal(result, image) for image, result in zip(images, results, strict=True)]
    assert [a != b for a, b in zip(flipped, same, strict=True)] == [True] * 64
    assert 16 < sum(flipped) < 48


@pytest.mark.parametrize("name", CIFAR)
def test_normalization_is_torchvisions(name):
    images = torch.from_numpy(some_pixels(4)).movedim(3, 1)
    facts = CIFAR[name]
    expected = functional.normalize(functional.to_dtype(images, torch.float32, scale=True), facts.mean, facts.std)
    result = normalize(images, facts.mean, facts.std)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected)


def test_normalization_wants_uint8():
    with pytest.raises(ValueError, match=r"torch.float32: give pixels from 0 to 255 in torch.uint8"):
        normalize(torch.rand(1, 3, 32, 32), (0.5,) * 3, (0.5,) * 3)
