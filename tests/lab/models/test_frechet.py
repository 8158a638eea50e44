"""The Fréchet distance, and the networks on whose features it is taken."""

from __future__ import annotations

import hashlib
import io
import math
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from adabelief.lab.models import frechet
from adabelief.lab.models.frechet import Gaussian


def spd(n: int, rank: int, seed: int) -> torch.Tensor:
    root = torch.randn(n, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T / rank


def test_distance_of_commuting_gaussians():
    """Where covariances commute, d² is |μ₁ − μ₂|² plus the squares of the differences of the standard deviations."""
    rotation = torch.linalg.qr(spd(4, 4, 0)).Q
    s, t = torch.tensor([1.0, 2.0, 0.0, 3.0]).double(), torch.tensor([4.0, 2.0, 1.0, 0.5]).double()
    a, b = (
        Gaussian(torch.full((4,), m).double(), rotation @ torch.diag(x**2) @ rotation.T)
        for m, x in ((1.0, s), (3.0, t))
    )
    assert frechet.distance(a, b) == pytest.approx(4 * 4 + (9 + 0 + 1 + 6.25))
    assert frechet.distance(b, a) == pytest.approx(frechet.distance(a, b))
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("rank_a", "rank_b"), [(40, 40), (40, 6), (5, 30)])
def test_distance_with_scipy_s_square_root(rank_a, rank_b):
    mean = torch.zeros(30, dtype=torch.float64)
    a, b = Gaussian(mean, spd(30, rank_a, 1)), Gaussian(mean + 0.1, spd(30, rank_b, 2))
    ridge = 1e-12 * torch.eye(30, dtype=torch.float64)  # sqrtm needs full rank
    root = scipy.linalg.sqrtm(((a.covariance + ridge) @ (b.covariance + ridge)).numpy())
    expected = 0.3 + float(a.covariance.trace() + b.covariance.trace()) - 2 * np.trace(root).real
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-4)


def test_gaussians_add_up_over_batches():
    features = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) + 100
    parts = frechet.gaussian(sum(frechet.scatter(part) for part in features.split(13)))
    torch.testing.assert_close(parts.mean, features.double().mean(0))
    torch.testing.assert_close(parts.covariance, features.double().T.cov(), rtol=1e-9, atol=1e-9)
    broken = frechet.gaussian(frechet.scatter(torch.full((3, 7), math.nan)))
    assert math.isnan(frechet.distance(parts, broken))


def test_diversity_is_a_ratio_of_distances():
    generator = torch.Generator().manual_seed(0)
    many, few = torch.randn(40, 5, generator=generator), 0.1 * torch.randn(30, 5, generator=generator)

    def spread(x):
        return (torch.pdist(x.double()) ** 2).mean().sqrt().item()

    a, b = (frechet.gaussian(frechet.scatter(x)) for x in (few, many))
    assert frechet.diversity(a, b) == pytest.approx(spread(few) / spread(many))
    assert frechet.diversity(frechet.gaussian(frechet.scatter(torch.ones(9, 5))), b) == 0


def test_random_features_are_always_the_same_and_draw_nothing():
    images, state = torch.rand(3, 3, 8, 8), torch.get_rng_state()
    one, two = (frechet.network("random-conv")(images) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, two)
    assert one.shape == (3, 64)
    assert one.var(0).max() > 0


def test_features_of_torchvision_are_what_its_last_layer_sees(monkeypatch):
    import torchvision.models as zoo

    trained = zoo.resnet18().eval()
    monkeypatch.setattr(zoo._api, "load_state_dict_from_url", lambda *args, **kwargs: trained.state_dict())
    images = torch.rand(2, 3, 48, 48)
    features = frechet.network("resnet18@48")(images)
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        torch.testing.assert_close(trained.fc(features), trained((images - mean) / std))
    assert frechet.network("resnet18").size == 224


ANY = torch.export.Dim("n")


def exported(path, network, size=8, dynamic=None):
    program = torch.export.export(network.eval(), (torch.rand(2, 3, size, size),), dynamic_shapes=(dynamic,))
    torch.export.save(program, path)
    return str(path)


def pooled():
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten())


def test_features_of_a_file(tmp_path):
    features = exported(tmp_path / "pooled.pt2", pooled(), dynamic={0: ANY})
    images = torch.rand(5, 3, 8, 8)
    network = frechet.network(features)
    assert torch.equal(network(images), pooled()(images))
    assert frechet.label(features) == "on pooled"
    assert frechet.width(network, features, 8) == 12


@pytest.mark.parametrize(
    ("make", "dynamic", "size", "message"),
    [
        (pooled, {0: ANY}, 16, r"does not take any number of images of 16×16 pixels \(Guard failed.*\); export it for"),
        (pooled, None, 8, r"does not take any number of images of 8×8 pixels \(Guard failed.*\); export it for any"),
        (lambda: nn.AvgPool2d(4), {0: ANY}, 8, r"makes \(3, 3, 2, 2\) of 3 images, not \(3, d\); flatten its output"),
        (lambda: nn.Flatten(0), {0: ANY}, 8, r"makes \(576,\) of 3 images, not \(3, d\); flatten its output"),
    ],
)
def test_a_program_that_does_not_fit_is_refused(tmp_path, make, dynamic, size, message):
    features = exported(tmp_path / "own.pt2", make(), dynamic=dynamic)
    with pytest.raises(ValueError, match=f"features='{features}' {message}") as caught:
        frechet.width(frechet.network(features), features, size)
    assert "\n" not in str(caught.value)


def zip_of_something():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("something", "else")
    return file.getvalue()


def weights_alone():
    file = io.BytesIO()
    torch.save({"weight": torch.zeros(3)}, file)
    return file.getvalue()


@pytest.mark.parametrize("content", [lambda: b"", lambda: b"no zip", zip_of_something, weights_alone])
def test_a_file_that_is_no_program_is_refused(tmp_path, content, caplog):
    path = tmp_path / "own.pt2"
    path.write_bytes(content())
    with pytest.raises(ValueError, match=rf"features='{path}' is no readable program .*write it again") as caught:
        frechet.network(str(path))
    assert "\n" not in str(caught.value)
    assert not caplog.records


def test_half_a_program_is_refused(tmp_path):
    path = Path(exported(tmp_path / "own.pt2", pooled()))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match=rf"features='{path}' is no readable program of torch.export .*write it again"):
        frechet.network(str(path))


def test_the_hash_tells_networks_of_one_name_apart(tmp_path):
    hashes = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        path = exported(tmp_path / "own.pt2", nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), dynamic={0: ANY})
        hashes.append(frechet.sha256(frechet.network(path), path))
        assert hashes[-1] == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert hashes[0] != hashes[1]
    known = frechet.network("random-conv")
    assert frechet.sha256(known, "random-conv") == frechet.sha256(frechet.network("random-conv"), "random-conv")
    next(known.parameters()).data[0] += 1
    assert frechet.sha256(known, "random-conv") != frechet.sha256(frechet.network("random-conv"), "random-conv")


@pytest.mark.parametrize("size", [8, 32, 64])
def test_the_example_in_the_documentation(tmp_path, monkeypatch, size):
    text = (Path(__file__).parents[3] / "docs" / "lab.md").read_text(encoding="utf-8")
    (example,) = (code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "torch.export" in code)
    monkeypatch.chdir(tmp_path)
    names = {"torch": torch, "network": nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.AvgPool2d(31), nn.Flatten())}
    exec(example, names)
    made = frechet.network("my-network.pt2")
    assert frechet.width(made, "my-network.pt2", size) == 8
    images = torch.rand(5, 3, size, size)
    torch.testing.assert_close(made(images), names["features"](images))


def test_features_that_there_are_not_are_refused(monkeypatch):
    with pytest.raises(ValueError, match=r"features='nothing': give 'random-conv', 'inception'"):
        frechet.network("nothing")
    with pytest.raises(ValueError, match=r"features='resnet18@big'"):
        frechet.network("resnet18@big")
    with pytest.raises(ValueError, match=r"features='a/b\.pt2': there is no such file"):
        frechet.network("a/b.pt2")
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ValueError, match="pip install torch-fidelity"):
        frechet.network("inception")


def test_only_inception_s_distance_is_called_fid():
    named = {features: frechet.label(features) for features in ("inception", "random-conv", "resnet18@64", "x/y.pt2")}
    assert [features for features, label in named.items() if "FID" in label] == ["inception"]
    assert named["resnet18@64"] == "on resnet18@64"
