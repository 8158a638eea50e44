import math

import pytest
import torch
import torchvision
from torch import nn

from adabelief.lab.models.images import MODELS, densenet121, resnet34, vgg11


def theirs(name):
    """The same network made of torchvision's, which has it for images of 224×224 pixels; without weights as yet."""
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
        if name == "vgg11":
            small = (nn.Dropout(), nn.Linear(512, 512), nn.ReLU(), nn.Dropout(), nn.Linear(512, 512), nn.ReLU())
            model = nn.Sequential(model.features, nn.Flatten(), *small, nn.Linear(512, 10))
        if name == "resnet34":
            model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
            model.fc = nn.Linear(512, 10)
        if name == "densenet121":
            model.features.conv0 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            model.features.norm0 = model.features.relu0 = model.features.pool0 = nn.Identity()
            model.classifier = nn.Linear(1024, 10)
    return model.to_empty(device="cpu")


def shapes(model):
    return [tuple(p.shape) for p in model.parameters()]


@pytest.mark.parametrize("name", MODELS)
def test_networks_compute_what_torchvisions_do(name):
    torch.manual_seed(0)
    ours, other = MODELS[name](10, 1.0).eval(), theirs(name).eval()
    assert shapes(ours) == shapes(other)
    other.load_state_dict(dict(zip(other.state_dict(), ours.state_dict().values(), strict=True)))
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), other(images))


@pytest.mark.parametrize(
    ("name", "count"), [("vgg11", 9_750_922), ("resnet34", 21_282_122), ("densenet121", 6_956_298)]
)
def test_parameters_are_as_many_as_in_the_experiments(name, count):
    assert sum(p.numel() for p in MODELS[name](10, 1.0).parameters() if p.requires_grad) == count


@pytest.mark.parametrize("name", MODELS)
def test_width_narrows_every_layer_and_changes_nothing_else(name):
    full, narrow = MODELS[name](10, 1.0), MODELS[name](10, 0.25)
    assert [type(module) for module in narrow.modules()] == [type(module) for module in full.modules()]

    def scaled(shape):
        kept = {3, 10} if len(shape) != 4 else {3}
        return (*(n if n in kept else n // 4 for n in shape[:2]), *shape[2:])

    assert shapes(narrow) == [scaled(shape) for shape in shapes(full)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("width", [0.03, 0.1, 0.3])
def test_any_width_trains(name, width):
    model = MODELS[name](100, width)
    outputs = model(torch.randn(4, 3, 32, 32))
    assert outputs.shape == (4, 100)
    outputs.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("name", MODELS)
def test_weights_come_from_the_global_random_state(name):
    one, same, other = ((torch.manual_seed(seed), MODELS[name](10, 0.1))[1] for seed in (0, 0, 1))
    assert all(torch.equal(x, y) for x, y in zip(one.parameters(), same.parameters(), strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True))


def test_convolutions_of_vgg_start_as_in_the_experiments():
    torch.manual_seed(0)
    convolutions = [layer for layer in vgg11(10) if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 8
    for layer in convolutions:
        assert not layer.bias.any()
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (9 * layer.out_channels)), rel=0.05)
        assert layer.weight.abs().max() > 2.5 * layer.weight.std(), "normal, not uniform"


def test_dropout_of_vgg():
    assert [layer.p for layer in vgg11(10, 0.1) if isinstance(layer, nn.Dropout)] == [0.5, 0.5]


@pytest.mark.parametrize("model", [vgg11, resnet34, densenet121])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0,), "classes=0"),
        ((10, 0.0), r"width=0.0 .* 1 is the published"),
        ((10, 1e-3), "width=0.001"),
        ((10, -1.0), "width=-1.0"),
        ((10, math.nan), "width=nan"),
        ((10, math.inf), "width=inf"),
    ],
)
def test_errors(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        model(*arguments)
