"""The networks of the paper's CIFAR experiments, for images of 32×32 pixels, and a small one for studies.

The paper's are the ones that the authors ran, which differ from the ImageNet versions: a 3×3 stem without max-pooling
in ResNet and DenseNet, and a VGG without batch normalization, with a classifier of three small layers.

Every function takes `classes`, how many outputs there are, and `width`, a factor on the number of channels of every
layer: 1 is the published network; less makes it cheaper at the same depth. It maps (n, 3, 32, 32) to logits
(n, classes), and raises ValueError for a class or a channel too few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

VGG11_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
RESNET34_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))
DENSENET121_STAGES = (6, 12, 24, 16)
DENSENET121_GROWTH = 32
CNN_CHANNELS = (16, 32, 64)


def vgg11(classes: int, width: float = 1.0) -> nn.Module:
    """VGG11 (configuration A of Simonyan and Zisserman, 2015), with dropout and without batch normalization.

    As in the authors' experiments, the weights of the convolutions start from a normal distribution of variance
    2/(9 × output channels), their biases from 0.

    Args:
        classes: Outputs.
        width: Factor on the channels of every layer.

    Returns:
        The network; 9,750,922 parameters for 10 classes at width 1.

    Raises:
        ValueError: If `classes` is less than 1, or `width` leaves a layer without channels.

    Example:
        >>> vgg11(10, width=0.25)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    _check(classes)
    layers: list[nn.Module] = []
    inputs = 3
    for stage in VGG11_STAGES:
        for channels in stage:
            outputs = scaled(channels, width)
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    for convolution in layers:
        if isinstance(convolution, nn.Conv2d):
            nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    hidden = scaled(512, width)
    return nn.Sequential(
        *layers,
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(inputs, hidden),
        nn.ReLU(),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def cnn(classes: int, width: float = 1.0, *, channels: int = 3, size: int = 32) -> nn.Module:
    """Three 3×3 convolutions of 16, 32 and 64 channels, each with batch normalization, ReLU and 2×2 max-pooling.

    Args:
        classes: Outputs of the linear layer behind them.
        width: Factor on the channels of every layer.
        channels: Channels of the images.
        size: Their height and width, at least 8.

    Returns:
        The network; 33,946 parameters for 10 classes and 3 channels of 32×32 pixels at width 1.

    Raises:
        ValueError: If `classes` is less than 1, `size` less than 8, or `width` leaves a layer without channels.

    Example:
        >>> cnn(10, channels=1, size=28)(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    _check(classes)
    if size < 2 ** len(CNN_CHANNELS):
        raise ValueError(f"size={size}: the pooling leaves nothing of images with less than 8 pixels a side")
    layers: list[nn.Module] = []
    inputs = channels
    for outputs in (scaled(one, width) for one in CNN_CHANNELS):
        layers += [_convolution(inputs, outputs), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
        inputs, size = outputs, size // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * size**2, classes))


def resnet34(classes: int, width: float = 1.0) -> nn.Module:
    """ResNet34 (He et al., 2016): basic blocks, and projections where the shape changes.

    Args:
        classes: Outputs.
        width: Factor on the channels of every layer.

    Returns:
        The network; 21,282,122 parameters for 10 classes at width 1.

    Raises:
        ValueError: If `classes` is less than 1, or `width` leaves a layer without channels.

    Example:
        >>> resnet34(10, width=0.125)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    _check(classes)
    inputs = scaled(RESNET34_STAGES[0][0], width)
    layers: list[nn.Module] = [_convolution(3, inputs), nn.BatchNorm2d(inputs), nn.ReLU()]
    for stage, (channels, blocks) in enumerate(RESNET34_STAGES):
        for block in range(blocks):
            outputs = scaled(channels, width)
            layers.append(BasicBlock(inputs, outputs, stride=2 if stage and not block else 1))
            inputs = outputs
    return nn.Sequential(*layers, *_head(inputs, classes))


def densenet121(classes: int, width: float = 1.0) -> nn.Module:
    """DenseNet121 (Huang et al., 2017): growth 32, bottlenecks, half of the channels kept between dense blocks.

    `width` is a factor on the growth rate, and so on everything.

    Args:
        classes: Outputs.
        width: Factor on the growth rate.

    Returns:
        The network; 6,956,298 parameters for 10 classes at width 1.

    Raises:
        ValueError: If `classes` is less than 1, or `width` leaves a growth rate of 0.

    Example:
        >>> densenet121(10, width=0.125)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """
    _check(classes)
    growth = scaled(DENSENET121_GROWTH, width)
    channels = 2 * growth
    layers: list[nn.Module] = [_convolution(3, channels)]
    for stage, depth in enumerate(DENSENET121_STAGES):
        if stage:
            layers += [nn.BatchNorm2d(channels), nn.ReLU(), _convolution(channels, channels // 2, size=1)]
            layers.append(nn.AvgPool2d(2))
            channels //= 2
        for _ in range(depth):
            layers.append(DenseLayer(channels, growth))
            channels += growth
    return nn.Sequential(*layers, nn.BatchNorm2d(channels), nn.ReLU(), *_head(channels, classes))


MODELS: Mapping[str, Callable[[int, float], nn.Module]] = {
    "vgg11": vgg11,
    "resnet34": resnet34,
    "densenet121": densenet121,
}


class BasicBlock(nn.Module):
    """relu(x + f(x)): f is convolution, batch norm, ReLU, convolution, batch norm; x is projected if shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            _convolution(inputs, outputs, stride=stride),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            _convolution(outputs, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = nn.Sequential()
        if stride > 1 or inputs != outputs:
            # Every stride-th pixel, then the convolution: torch 2.14 on CPUs without AVX-512 writes past the end of an
            # array in the backward pass of a strided 1×1 convolution of fewer than 8 channels in channels_last.
            self.shortcut.append(nn.MaxPool2d(1, stride))
            self.shortcut.append(_convolution(inputs, outputs, size=1)).append(nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        return relu(self.shortcut(x) + self.residual(x))


class DenseLayer(nn.Module):
    """x and f(x) side by side: f is twice batch norm, ReLU, convolution; 1×1 to 4 × growth channels, 3×3 to growth."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.new = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            _convolution(inputs, 4 * growth, size=1),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            _convolution(4 * growth, growth),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, inputs + growth, h, w)."""
        return torch.cat([x, self.new(x)], 1)


def _convolution(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _head(channels: int, classes: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)


def scaled(channels: int, width: float) -> int:
    """The published number of channels times `width`, rounded; a ValueError where nothing is left."""
    number = round(channels * width) if math.isfinite(width) else 0
    if number < 1:
        raise ValueError(f"width={width} leaves nothing of a layer of {channels} channels; 1 is the published network")
    return number


def _check(classes: int) -> None:
    if classes < 1:
        raise ValueError(f"classes={classes}: a classifier needs at least 1")
