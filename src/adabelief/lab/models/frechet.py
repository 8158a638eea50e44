"""The Fréchet distance between images, on the features of a network: the FID, where the network is FID's Inception.

The features of each set of images are taken for a Gaussian N(μ, Σ), and

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½

is what is reported, as everywhere. It says nothing without the network's name: `label`.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

RANDOM, INCEPTION = "random-conv", "inception"


class Gaussian(NamedTuple):
    """Mean (d,) and covariance (d, d) in float64."""

    mean: Tensor
    covariance: Tensor


def scatter(features: Tensor) -> Tensor:
    """Σ y yᵀ of y = (1, x) over features x: whatever a Gaussian needs, in a form that adds up over batches.

    Args:
        features: (n, d).

    Returns:
        (d + 1, d + 1) in float64, on the CPU.
    """
    x = features.cpu().double()
    y = torch.cat([x.new_ones(len(x), 1), x], 1)
    return y.T @ y


def gaussian(scattered: Tensor) -> Gaussian:
    """The mean and the unbiased covariance of the features behind a sum of scatters, of two or more images.

    Example:
        >>> gaussian(scatter(torch.tensor([[0.0], [2.0]])))
        Gaussian(mean=tensor([1.], dtype=torch.float64), covariance=tensor([[2.]], dtype=torch.float64))
    """
    n = scattered[0, 0]
    mean = scattered[0, 1:] / n
    return Gaussian(mean, (scattered[1:, 1:] - n * torch.outer(mean, mean)) / (n - 1))


def distance(a: Gaussian, b: Gaussian) -> float:
    """d² between two Gaussians; nan where a number of theirs is not finite.

    The eigenvalues of Σ₁Σ₂ are taken of Σ₁^½ Σ₂ Σ₁^½, which has the same ones and is symmetric: no small negative or
    complex ones come of covariances without full rank.

    Example:
        >>> unit = torch.eye(2, dtype=torch.float64)
        >>> distance(Gaussian(torch.zeros(2), unit), Gaussian(torch.ones(2), 4 * unit))
        4.0
    """
    if not all(x.isfinite().all() for x in (*a, *b)):
        return float("nan")
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    common = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * common)


def diversity(a: Gaussian, b: Gaussian) -> float:
    """How far apart the images of a set are, next to those of another: the ratio of their root mean square distances.

    The mean square distance between two images of a set is 2 tr Σ. 0 is a set of equal images.

    Example:
        >>> unit = torch.eye(2, dtype=torch.float64)
        >>> diversity(Gaussian(torch.zeros(2), unit), Gaussian(torch.zeros(2), 4 * unit))
        0.5
    """
    return float((a.covariance.trace() / b.covariance.trace()).sqrt())


def label(features: str) -> str:
    """What stands beside a distance on these features, as `network` takes them.

    Example:
        >>> label("folder/efficientnet-lite0.pt2"), label("inception")
        ('on efficientnet-lite0', 'on Inception (FID)')
    """
    return "on Inception (FID)" if features == INCEPTION else f"on {Path(features).stem}"


def network(features: str) -> nn.Module:
    """A network that maps images (n, 3, h, w) from 0 to 1, in float32, to features (n, d).

    Nothing is drawn from the random state.

    Args:
        features: One of
            "random-conv": three convolutions with fixed random weights, 64 features; needs nothing, and says little.
            "inception": that of the FID, 2,048 features; needs the package torch-fidelity, which downloads its weights.
            A network of torchvision, such as "efficientnet_b0", with its ImageNet weights and without its last layer.
            It sees images resized to what it was trained on, or to the size after an @, as in "resnet18@64".
            A file NAME.pt2 of torch.export.save, whose program does all of it, for any n.

    Raises:
        ValueError: If there is no such network or file, or a package is missing.
        OSError: If weights cannot be downloaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if features == RANDOM:
            made: nn.Module = _random()
        elif features == INCEPTION:
            made = _Inception()
        elif features.endswith(".pt2"):
            made = _exported(Path(features))
        else:
            made = _Torchvision(*features.partition("@")[::2])
    return made.requires_grad_(False)


def _random() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
        layers += [convolution, nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()


def _exported(path: Path) -> nn.Module:
    if not path.is_file():
        raise ValueError(f"features={str(path)!r}: there is no such file; torch.export.save writes one")
    made: nn.Module = torch.export.load(path).module()
    return made


class _Inception(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError:
            raise ValueError(
                "features='inception' needs the package torch-fidelity: pip install torch-fidelity"
            ) from None
        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], verbose=False)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.network((255 * images).round().to(torch.uint8))[0]
        return features


class _Torchvision(nn.Module):
    def __init__(self, name: str, size: str) -> None:
        super().__init__()
        from torchvision import models

        if name not in models.list_models(module=models) or (size and not size.isdecimal()):
            raise ValueError(
                f"features={name + ('@' + size if size else '')!r}: give {RANDOM!r}, {INCEPTION!r}, a classifier of "
                "torchvision such as 'efficientnet_b0' or 'efficientnet_b0@64', or a file NAME.pt2 of torch.export.save"
            )
        weights = models.get_model_weights(name)["DEFAULT"]
        made = models.get_model(name, weights=weights).eval()
        linear = [path for path, module in made.named_modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise ValueError(f"features={name!r} has no linear layer at its end, before which features could be taken")
        made.set_submodule(linear[-1], nn.Identity())
        usual = weights.transforms()
        self.network, self.size = made, int(size) if size else usual.crop_size[0]
        self.mean: Tensor
        self.std: Tensor
        for statistic in ("mean", "std"):
            self.register_buffer(statistic, torch.tensor(getattr(usual, statistic)).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        resized = interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)
        features: Tensor = self.network((resized - self.mean) / self.std)
        return features
