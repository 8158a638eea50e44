"""The GANs' networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adabelief.lab.models.gans import ClassNorm, SnganCritic, SnganGenerator, dcgan_critic, dcgan_generator


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("make", "parameters", "shape"),
    [
        (dcgan_generator, 3_576_704, (3, 64, 64)),
        (lambda: dcgan_critic("sigmoid"), 2_765_568, ()),
        (lambda: dcgan_critic("linear"), 2_765_569, ()),
        (lambda: dcgan_critic("convolution"), 2_765_568, ()),
        (lambda: SnganGenerator(10), 4_304_387, (3, 32, 32)),
        (lambda: SnganCritic(10), 1_055_105, ()),
    ],
)
def test_networks_are_the_published_ones(make, parameters, shape):
    network = make()
    assert count(network) == parameters
    side = 64 if parameters in (2_765_568, 2_765_569) else 32
    latent = 100 if parameters == 3_576_704 else 128
    inputs = torch.randn(2, latent) if shape else torch.randn(2, 3, side, side)
    outputs = network(inputs, torch.tensor([0, 9]))
    assert outputs.shape == (2, *shape)
    if shape:
        assert outputs.abs().max() < 1


def test_weights_start_as_published():
    first = dcgan_critic("linear").layers[0].weight
    assert first.std().item() == pytest.approx(0.02, rel=0.1)
    norm = next(m for m in dcgan_generator().modules() if isinstance(m, nn.BatchNorm2d))
    assert (norm.weight.mean().item(), norm.weight.std().item()) == pytest.approx((1, 0.02), rel=0.2)
    matrix = SnganGenerator(10, width=0.125).blocks[0].convolutions[0].weight.flatten(1)
    assert torch.allclose(matrix @ matrix.T, torch.eye(len(matrix)), atol=1e-5)


@pytest.mark.parametrize("size", [4, 12, 33])
def test_sizes_that_cannot_be_are_refused(size):
    for make in (dcgan_generator, lambda size: SnganGenerator(10, size=size), lambda size: SnganCritic(10, size=size)):
        with pytest.raises(ValueError, match=f"size={size}"):
            make(size=size)
    with pytest.raises(ValueError, match="width"):
        dcgan_generator(width=0.001)


def test_spectral_norms_are_one():
    critic = SnganCritic(10, width=0.125)
    layers = [m for m in critic.modules() if isinstance(m, (nn.Conv2d, nn.Linear, nn.Embedding))]
    assert len(layers) == 8 + 2 + 2
    for layer in layers:
        layer.parametrizations.weight.original.data.normal_(0, 3)
    for _ in range(100):  # a power iteration in each
        critic(torch.zeros(1, 3, 8, 8), torch.tensor([0]))
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.02)


def test_the_class_counts_by_its_projection():
    critic = SnganCritic(10, width=0.125).eval()
    images = torch.randn(3, 3, 32, 32)
    h = critic.blocks(images).relu().sum((2, 3))
    a, b = (critic(images, torch.full((3,), label)) for label in (2, 7))
    difference = critic.embedding.weight[2] - critic.embedding.weight[7]
    torch.testing.assert_close(a - b, h @ difference)


def test_batch_normalization_of_the_class():
    norm, x = ClassNorm(5, classes=3), torch.randn(8, 5, 4, 4)
    classes = torch.arange(8) % 3
    plain = nn.BatchNorm2d(5, eps=1e-4, affine=False)(x)
    for i, label in enumerate(classes):
        scale, shift = norm.scale.weight[label], norm.shift.weight[label]
        expected = plain[i] * (1 + scale[:, None, None]) + shift[:, None, None]
        torch.testing.assert_close(norm(x, classes)[i], expected)
