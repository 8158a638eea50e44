"""The Fréchet distance between images, on the features of a network: the FID, where the network is FID's Inception.

The features of each set of images are taken for a Gaussian N(μ, Σ), and

    d² = |μ₁ − μ₂|² + tr Σ₁ + tr Σ₂ − 2 tr (Σ₁ Σ₂)^½

is what is reported, as everywhere. It says nothing without the network's name: `label`.
"""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

RANDOM, INCEPTION = "random-conv", "inception"
EXPORTED = ".pt2"
"""What the name of a file of torch.export.save ends with."""


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
            A file NAME.pt2 of torch.export.save, whose program does all of it, for any n, h and w.

    Raises:
        ValueError: If there is no such network or file, or the file is damaged, or a package is missing.
        OSError: If weights cannot be downloaded.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if features == RANDOM:
            made: nn.Module = _random()
        elif features == INCEPTION:
            made = _Inception()
        elif features.endswith(EXPORTED):
            made = _exported(Path(features))
        else:
            made = _Torchvision(*features.partition("@")[::2])
    return made.requires_grad_(False)


def width(network: nn.Module, features: str, size: int) -> int:
    """How many features a network gives of an image, found by trying it out.

    Args:
        network: What `network` made.
        features: Its name, as `network` took it.
        size: Height and width of the images.

    Raises:
        ValueError: If it does not take images of this size in any number, or gives no features.

    Example:
        >>> width(network("random-conv"), "random-conv", 32)
        64
    """
    try:
        with torch.no_grad():
            shapes = [tuple(network(torch.zeros(n, 3, size, size)).shape) for n in (1, 3)]
    except Exception as error:  # whatever a program of someone else raises
        raise ValueError(
            f"features={features!r} does not take any number of images of {size}×{size} pixels "
            f"({_line(error)}); export it for any number and size, as docs/lab.md does"
        ) from error
    if [len(shape) for shape in shapes] != [2, 2] or [shape[0] for shape in shapes] != [1, 3]:
        raise ValueError(f"features={features!r} makes {shapes[1]} of 3 images, not (3, d); flatten its output")
    return int(shapes[0][1])


def sha256(network: nn.Module, features: str) -> str:
    """What tells a network from another of the same name: a number from a distance says nothing without it.

    Args:
        network: What `network` made.
        features: Its name, as `network` took it.

    Returns:
        The SHA-256 of a file NAME.pt2; of any other network, that of the names and values of its weights.
    """
    if features.endswith(EXPORTED):
        return hashlib.sha256(Path(features).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for name, values in network.state_dict().items():
        digest.update(name.encode())
        digest.update(values.cpu().numpy().tobytes())
    return digest.hexdigest()


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
    log = logging.getLogger("torch.export")  # which writes a whole traceback before the error is raised
    silent, log.disabled = log.disabled, True
    try:
        made: nn.Module = torch.export.load(path).module()
    except Exception as error:  # zipfile's, JSON's or torch's own, by what is wrong
        raise ValueError(
            f"features={str(path)!r} is no readable program of torch.export ({_line(error)}); write it again with "
            "torch.export.save"
        ) from error
    finally:
        log.disabled = silent
    return made


def _line(error: Exception) -> str:
    """The first line of what an error says, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
