"""The GAN tasks: networks, losses, steps, the Fréchet distance, runs, and what the report makes of them."""

from __future__ import annotations

import base64
import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from accelerate import Accelerator
from PIL import Image
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from adabelief.lab import optimizers
from adabelief.lab.analysis.runs import load
from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.engine.run import trainer_for
from adabelief.lab.models import frechet
from adabelief.lab.models.frechet import Gaussian
from adabelief.lab.models.gans import ClassNorm, SnganCritic, SnganGenerator, dcgan_critic, dcgan_generator
from adabelief.lab.task import Request
from adabelief.lab.tasks import adversarial, gans, task
from tests.lab.running import go, goes_on, numbers

NAMES = tuple(gans.TASKS)


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


REAL, FAKE = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-3.0, 0.0, 0.5])


def test_losses():
    assert adversarial.wasserstein(REAL, FAKE).item() == pytest.approx(-2.5 / 3 - 1.5 / 3)
    assert adversarial.hinge(REAL, FAKE).item() == pytest.approx((0 + 0.5 + 2) / 3 + (0 + 1 + 1.5) / 3)
    assert adversarial.lowest(FAKE).item() == pytest.approx(2.5 / 3)
    ones = torch.ones(3)
    entropy = binary_cross_entropy_with_logits
    torch.testing.assert_close(adversarial.logistic(REAL, FAKE), entropy(REAL, ones) + entropy(FAKE, 0 * ones))
    torch.testing.assert_close(adversarial.unsaturated(FAKE), entropy(FAKE, ones))


def test_gradient_penalty_of_a_linear_critic():
    """f(x) = w·x has the gradient w everywhere: the penalty is (|w| − 1)², its gradient 2(|w| − 1)·w/|w|."""
    w = torch.tensor([1.0, -2.0, 2.0, 4.0], requires_grad=True)
    penalty = adversarial.gradient_penalty(lambda images: images.flatten(1) @ w, torch.randn(6, 1, 2, 2))
    assert penalty.item() == pytest.approx(16)
    (gradient,) = torch.autograd.grad(penalty, w)
    torch.testing.assert_close(gradient, 2 * 4 * w.detach() / 5)


def colours(n: int) -> Split:
    """Random CIFAR-like images."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randint(256, (n, 3, 32, 32), generator=generator, dtype=torch.uint8)
    part = Examples(images, torch.arange(n) % 10)
    return Split(part, part, part)


def trained(name: str, split: Split | None = None, **changes):
    """A workload at the smoke scale, and its trainer."""
    (config,) = plan(task(name), scale="smoke", changes=changes)
    torch.manual_seed(0)
    request = Request(config.model, config.seed, config.batch_size, config.options, None)
    workload = adversarial.Adversarial(request, split, gans.GAMES[name]) if split else task(name).make(request)
    return workload, trainer_for(workload, config, Accelerator(cpu=True))


def steps(workload, trainer, n: int):
    """The first n steps, one after the other: which one it is, and its loss."""
    for i, batch in zip(range(n), workload.batches(0), strict=False):
        trainer.moment = trainer.moment._replace(step=i)
        yield i, workload.step(batch, trainer)


def flat(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def test_critic_steps_on_every_batch_and_generator_on_every_fifth_of_a_pass():
    workload, trainer = trained("wgan", passes=2)  # of 19 steps each
    generator, critic = (workload.modules[name] for name in ("generator", "critic"))
    moved, before, critic_before = [], flat(generator), flat(critic)
    for i, _ in steps(workload, trainer, 24):
        if not torch.equal(flat(generator), before):
            moved.append(i)
        assert not torch.equal(flat(critic), critic_before)
        before, critic_before = flat(generator), flat(critic)
        assert all(p.grad is None and p.requires_grad for p in critic.parameters())
    assert moved == [0, 5, 10, 15, 19]


@pytest.mark.parametrize("clip", [0.01, 0.003])
def test_weights_are_clipped(clip):
    workload, trainer = trained("wgan", clip=clip)
    list(steps(workload, trainer, 1))
    weights = flat(workload.modules["critic"]).abs()
    assert weights.max().item() == pytest.approx(clip)
    assert flat(workload.modules["generator"]).abs().max() > 0.02


def test_the_penalty_is_part_of_the_critic_s_loss():
    (plain, _), (penalized, _) = trained("wgan-gp", penalty=0.0), trained("wgan-gp", penalty=10.0)
    batch = next(iter(plain.batches(0)))
    losses = []
    for workload in (plain, penalized):
        generator, critic = (workload.modules[name].eval() for name in ("generator", "critic"))
        losses.append(workload.critic_loss(batch))
    fake = generator(batch.latents, batch.classes)
    mixed = batch.mix * batch.images + (1 - batch.mix) * fake
    penalty = adversarial.gradient_penalty(lambda images: critic(images, batch.labels), mixed)
    torch.testing.assert_close(losses[1] - losses[0], 10 * penalty)


def test_batches_are_functions_of_seed_and_epoch():
    workload, _ = trained("sngan", passes=2)
    first, again, other = (list(workload.batches(epoch)) for epoch in (0, 0, 1))
    assert len(first) == workload.steps_per_epoch == 38
    assert all(torch.equal(x, y) for a, b in zip(first, again, strict=True) for x, y in zip(a, b, strict=True))
    assert not torch.equal(first[0].latents, other[0].latents)
    assert sorted(torch.cat([batch.labels for batch in first[:19]])) == sorted(
        torch.cat([batch.labels for batch in first[19:]])
    )
    assert {len(batch.images) for batch in first} == {64, 1197 % 64}
    for batch in first[:2]:
        assert batch.images.min() == -1
        assert batch.images.max() == 1
        assert 0 <= batch.mix.min() <= batch.mix.max() <= 1


def test_colour_images_are_scaled_and_half_of_them_flipped():
    split = colours(64)
    workload, _ = trained("sngan", split, size=32, flip=True)
    (batch,) = workload.batches(0)
    known = {image.numpy().tobytes() for image in split.train.inputs}
    back = ((batch.images + 1) * 127.5).round().to(torch.uint8)
    plain = [image.numpy().tobytes() in known for image in back]
    mirrored = [image.flip(-1).contiguous().numpy().tobytes() in known for image in back]
    assert all(a != b for a, b in zip(plain, mirrored, strict=True))
    assert 16 < sum(plain) < 48
    larger, _ = trained("wgan", split, size=64)
    assert next(iter(larger.batches(0))).images.shape == (64, 3, 64, 64)


@pytest.mark.parametrize(("option", "value"), [("passes", 0), ("critic_steps", 2.5), ("samples", 7)])
def test_options_out_of_range_are_refused(option, value):
    with pytest.raises(ValueError, match=rf"--set {option} must be a whole number, at least \d, got {value}"):
        trained("wgan", **{option: value})


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_of_optimizers_that_there_are(name):
    settings = task(name).settings("")
    assert {"AdaBelief", "Adam", "AdamW", "SGD", "RMSprop"} <= settings.keys()
    for optimizer, arguments in settings.items():
        optimizers.check(optimizer, arguments)
    betas = {arguments["betas"] for arguments in settings.values() if "betas" in arguments}
    assert betas == {(0.9, 0.999)} if name == "dcgan" else betas == {(0.5, 0.999)}


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


def test_features_of_a_file(tmp_path):
    network = nn.Sequential(nn.AvgPool2d(4), nn.Flatten()).eval()
    path = tmp_path / "pooled.pt2"
    any_n = {0: torch.export.Dim("n")}
    torch.export.save(torch.export.export(network, (torch.zeros(2, 3, 8, 8),), dynamic_shapes=(any_n,)), path)
    images = torch.rand(5, 3, 8, 8)
    assert torch.equal(frechet.network(str(path))(images), network(images))
    assert frechet.label(str(path)) == "on pooled"


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


@pytest.mark.parametrize(("name", "at"), [("wgan", 7), ("wgan-gp", 22), ("sngan", 19), ("dcgan", 30)])
def test_a_smoke_run_that_stops_ends_with_the_same_bits(tmp_path, name, at):
    (config,) = plan(task(name), scale="smoke")
    result, whole = go(tmp_path / "whole", config, task(name))
    goes_on(tmp_path / "parts", config, task(name), at, whole=whole, checkpoint_seconds=0.0 if at % 2 else 60.0)
    assert not result["diverged"]
    epochs = [line for line in numbers(whole) if "train_loss" in line]
    assert result["test"] == min((line["validation_frechet"], line["test_frechet"]) for line in epochs)[1]
    for line in epochs:
        assert 0 < line["real_frechet"] == epochs[0]["real_frechet"] < line["test_frechet"] < 10
        assert 0 < line["diversity"] < 5
        assert len(line["samples"]) == 8
        assert {_size(png) for png in line["samples"]} == {(8, 8)}


def _size(png: str) -> tuple[int, int]:
    return Image.open(io.BytesIO(base64.b64decode(png))).size


def test_samples_are_what_the_generator_makes():
    workload, trainer = trained("dcgan")
    measured = workload.evaluate(trainer)
    codes = next(workload._codes())
    with torch.no_grad():
        image = workload.modules["generator"].eval()(codes.inputs[:8], codes.labels[:8])[3]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(measured["samples"][3]))))
    assert pixels.shape == (8, 8, 3)
    np.testing.assert_allclose(pixels[..., 1], ((image[0] + 1) * 127.5).numpy(), atol=0.51)
    assert (measured["generated_examples"], measured["test_examples"]) == (300, 300)


def test_weights_that_are_no_numbers_are_measured_as_nan():
    workload, trainer = trained("dcgan")
    for p in workload.modules["generator"].parameters():
        p.data.fill_(math.nan)
    assert math.isnan(workload.evaluate(trainer)["test_frechet"])


DISTRIBUTED = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.tasks import task
for name in ("wgan-gp", "sngan"):
    configs = plan(task(name), scale="smoke", names=["Adam"], epochs=1)
    session.run(task(name), configs, Path({out!r}), cpu=True)
"""


def test_two_processes_train_together(tmp_path):
    """Batch normalization sees its own part, so the numbers are near those of one process, not equal to them."""
    script = tmp_path / "script.py"
    script.write_text(DISTRIBUTED.format(tests=str(Path(__file__).parents[3]), out=str(tmp_path / "two")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for name in ("wgan-gp", "sngan"):
        session.run(task(name), plan(task(name), scale="smoke", names=["Adam"], epochs=1), tmp_path / "one", cpu=True)
    one, two = ({run.config.task: run for run in load([tmp_path / folder])} for folder in ("one", "two"))
    for name in one:
        assert two[name].environment["processes"] == 2
        assert two[name].test == pytest.approx(one[name].test, rel=0.2)
        assert two[name].epochs[0]["train_loss"] == pytest.approx(one[name].epochs[0]["train_loss"], rel=0.1)
