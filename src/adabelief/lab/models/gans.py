"""The networks of the paper's GAN experiments: DCGAN's for WGAN and WGAN-GP, residual ones for SN-GAN.

A generator maps latents (n, z) and classes (n,) to images (n, channels, size, size) in (−1, 1); a critic maps images
and classes to scores (n,). DCGAN's ignore the classes. `width` is a factor on the channels of every layer: 1 is the
published network. All raise ValueError for a size that is no power of 2 from 8 upwards, or a width that leaves a layer
without channels.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, relu
from torch.nn.utils.parametrizations import spectral_norm

from adabelief.lab.models.images import scaled

DCGAN_LATENT, SNGAN_LATENT = 100, 128
DCGAN_CHANNELS, SNGAN_GENERATOR, SNGAN_CRITIC = 64, 256, 128
Head = Literal["convolution", "sigmoid", "linear"]
BOTTOM = 4
"""Height and width of the smallest feature map."""


class Unconditional(nn.Module):
    """Layers that do not look at the classes."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, inputs: Tensor, classes: Tensor) -> Tensor:
        """What the layers make of the inputs."""
        outputs: Tensor = self.layers(inputs)
        return outputs


def dcgan_generator(channels: int = 3, size: int = 64, width: float = 1.0) -> nn.Module:
    """DCGAN's generator (Radford et al., 2016): transposed 4×4 convolutions, batch normalization, ReLU, tanh.

    Returns:
        The network, which takes latents (n, 100); 3,576,704 parameters for 3 channels of 64×64 pixels at width 1.

    Example:
        >>> import torch
        >>> dcgan_generator(size=32)(torch.zeros(2, DCGAN_LATENT), torch.zeros(2)).shape
        torch.Size([2, 3, 32, 32])
    """
    widths = [scaled(DCGAN_CHANNELS * 2**i, width) for i in range(doublings(size))]
    layers: list[nn.Module] = [nn.Unflatten(1, (DCGAN_LATENT, 1, 1))]
    inputs, stride, padding = DCGAN_LATENT, 1, 0
    for outputs in reversed(widths):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, stride, padding, bias=False)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        inputs, stride, padding = outputs, 2, 1
    layers += [nn.ConvTranspose2d(inputs, channels, 4, 2, 1, bias=False), nn.Tanh()]
    return Unconditional(*layers).apply(_dcgan_weights)


def dcgan_critic(head: Head, channels: int = 3, size: int = 64, width: float = 1.0) -> nn.Module:
    """DCGAN's discriminator: strided 4×4 convolutions, batch normalization but in the first, LeakyReLU(0.2).

    Args:
        head: What makes a score of the last feature map, 4×4: "convolution"; "sigmoid", a convolution and a sigmoid; or
            "linear".
        channels: Channels of the images.
        size: Their height and width.
        width: Factor on the channels of every layer.

    Returns:
        The network; for 3 channels of 64×64 pixels at width 1, 2,765,568 parameters with a convolution, 2,765,569 with
        a linear head.

    Example:
        >>> import torch
        >>> dcgan_critic("linear", size=32)(torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape
        torch.Size([2])
    """
    layers: list[nn.Module] = []
    inputs = channels
    for i in range(doublings(size)):
        outputs = scaled(DCGAN_CHANNELS * 2**i, width)
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1, bias=False)]
        layers += [*([nn.BatchNorm2d(outputs)] if i else []), nn.LeakyReLU(0.2)]
        inputs = outputs
    if head == "linear":
        layers += [nn.Flatten(), nn.Linear(inputs * BOTTOM**2, 1)]
    else:
        layers += [nn.Conv2d(inputs, 1, BOTTOM, bias=False), *([nn.Sigmoid()] if head == "sigmoid" else [])]
    return Unconditional(*layers, nn.Flatten(0)).apply(_dcgan_weights)


class SnganGenerator(nn.Module):
    """SN-GAN's residual generator (Miyato et al., 2018), with batch normalization that depends on the class.

    Takes latents (n, 128); has 4,304,387 parameters for 10 classes, 3 channels of 32×32 pixels, width 1.

    Example:
        >>> import torch
        >>> SnganGenerator(10, width=0.25)(torch.zeros(2, SNGAN_LATENT), torch.tensor([0, 9])).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 32, width: float = 1.0) -> None:
        super().__init__()
        inner = scaled(SNGAN_GENERATOR, width)
        self.first = nn.Linear(SNGAN_LATENT, inner * BOTTOM**2)
        self.blocks = nn.ModuleList(GeneratorBlock(inner, classes) for _ in range(doublings(size)))
        self.last = nn.Sequential(nn.BatchNorm2d(inner, eps=1e-4), nn.ReLU(), _convolution(inner, channels), nn.Tanh())
        self.apply(_orthogonal)

    def forward(self, latents: Tensor, classes: Tensor) -> Tensor:
        """Images of these classes."""
        x = self.first(latents).unflatten(1, (-1, BOTTOM, BOTTOM))
        for block in self.blocks:
            x = block(x, classes)
        images: Tensor = self.last(x)
        return images


class SnganCritic(nn.Module):
    """SN-GAN's residual discriminator: spectral normalization, and a projection for the class (Miyato and Koyama).

    The score is ψ(h) + ⟨e(class), h⟩, with h the features summed over the pixels. Has 1,055,105 parameters for 10
    classes, 3 channels, width 1.

    Example:
        >>> import torch
        >>> SnganCritic(10, width=0.25)(torch.zeros(2, 3, 32, 32), torch.tensor([0, 9])).shape
        torch.Size([2])
    """

    def __init__(self, classes: int, channels: int = 3, size: int = 32, width: float = 1.0) -> None:
        super().__init__()
        doublings(size)
        inner = scaled(SNGAN_CRITIC, width)
        self.blocks = nn.Sequential(
            CriticBlock(channels, inner, down=True, first=True),
            CriticBlock(inner, inner, down=True),
            CriticBlock(inner, inner),
            CriticBlock(inner, inner),
        )
        self.score, self.embedding = nn.Linear(inner, 1), nn.Embedding(classes, inner)
        self.apply(_orthogonal).apply(_spectral)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        """The scores of images that claim to be of these classes."""
        h = relu(self.blocks(images)).sum((2, 3))
        score: Tensor = self.score(h)[:, 0] + (self.embedding(classes) * h).sum(1)
        return score


class ClassNorm(nn.Module):
    """Batch normalization whose scale and shift are those of the class."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, eps=1e-4, affine=False)
        self.scale, self.shift = nn.Embedding(classes, channels), nn.Embedding(classes, channels)

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """(1 + scale) · (x − mean)/std + shift."""
        scale, shift = (table(classes)[:, :, None, None] for table in (self.scale, self.shift))
        normed: Tensor = self.norm(x) * (1 + scale) + shift
        return normed


class GeneratorBlock(nn.Module):
    """Twice the height and width: a residual branch of two 3×3 convolutions, and a 1×1 convolution beside it."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(ClassNorm(channels, classes) for _ in range(2))
        self.convolutions = nn.ModuleList(_convolution(channels, channels) for _ in range(2))
        self.shortcut = _convolution(channels, channels, size=1)

    def forward(self, x: Tensor, classes: Tensor) -> Tensor:
        """(n, channels, h, w) to (n, channels, 2h, 2w)."""
        y = interpolate(relu(self.norms[0](x, classes)), scale_factor=2)
        y = relu(self.norms[1](self.convolutions[0](y), classes))
        total: Tensor = self.convolutions[1](y) + self.shortcut(interpolate(x, scale_factor=2))
        return total


class CriticBlock(nn.Module):
    """A residual branch of two 3×3 convolutions, beside it a 1×1 convolution where the shape changes; pooled if `down`.

    The first block of a critic has no ReLU at its beginning: it would cut the image.
    """

    def __init__(self, inputs: int, outputs: int, *, down: bool = False, first: bool = False) -> None:
        super().__init__()
        self.down, self.first = down, first
        self.convolutions = nn.ModuleList([_convolution(inputs, outputs), _convolution(outputs, outputs)])
        self.shortcut = _convolution(inputs, outputs, size=1) if down or inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) to (n, outputs, h, w), or to half the height and width."""
        y = self.convolutions[1](relu(self.convolutions[0](x if self.first else relu(x))))
        total: Tensor = y + self.shortcut(x)
        return avg_pool2d(total, 2) if self.down else total


def doublings(size: int) -> int:
    """How often the smallest feature map is doubled to get to an image's height and width."""
    times = (size // BOTTOM).bit_length() - 1
    if times < 1 or BOTTOM * 2**times != size:
        raise ValueError(f"size={size}: these networks make images of 8, 16, 32, 64, ... pixels a side")
    return times


def _convolution(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


def _dcgan_weights(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def _orthogonal(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
        nn.init.orthogonal_(module.weight)
    if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is not None:
        nn.init.zeros_(module.bias)


def _spectral(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
        spectral_norm(module)
