"""The GAN tasks: losses, steps and runs."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pytest
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
from adabelief.lab.models import coverage, frechet
from adabelief.lab.task import Request
from adabelief.lab.tasks import adversarial, gans, task
from tests.lab.running import go, goes_on, numbers
from tests.lab.shared import GANS

NAMES = tuple(gans.TASKS)


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


def test_features_that_do_not_take_the_images_are_refused_before_the_first_step(tmp_path):
    path = tmp_path / "own.pt2"
    torch.export.save(torch.export.export(nn.Flatten(), (torch.zeros(2, 3, 32, 32),)), path)
    with pytest.raises(ValueError, match=rf"features='{path}' does not take any number of images of 8×8 pixels"):
        trained("wgan", features=str(path))


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_of_optimizers_that_there_are(name):
    settings = task(name).settings("")
    assert {"AdaBelief", "Adam", "AdamW", "SGD", "RMSprop"} <= settings.keys()
    for optimizer, arguments in settings.items():
        optimizers.check(optimizer, arguments)
    betas = {arguments["betas"] for arguments in settings.values() if "betas" in arguments}
    assert betas == {(0.9, 0.999)} if name == "dcgan" else betas == {(0.5, 0.999)}


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
        name, sha256 = line["features"]
        assert (name, sha256) == ("random-conv", frechet.sha256(frechet.network(name), name))
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


def test_a_classifier_sees_which_classes_are_covered():
    workload, trainer = trained("dcgan", coverage=8, samples=200)
    state = torch.random.get_rng_state()
    measured = workload.evaluate(trainer)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert measured["classifier_accuracy"] > 80
    assert 1 <= measured["classes_covered"] <= 10
    assert 1 <= measured["classes_effective"] <= 10
    images, labels = workload._split.test
    for kept, covered in ((labels >= 0, 10), (labels == 3, 1)):
        seen = coverage.counts(workload._judge, images[kept], 10)
        assert coverage.covered(seen) == covered
        assert coverage.effective(seen) == pytest.approx(covered, abs=0.6)
    again, trainer = trained("dcgan", coverage=8, samples=200)
    again._teach(trainer)
    assert again._accuracy == measured["classifier_accuracy"]
    workload, trainer = trained("dcgan", coverage=0)
    assert "classes_covered" not in workload.evaluate(trainer)


def test_weights_that_are_no_numbers_are_measured_as_nan():
    workload, trainer = trained("dcgan")
    for p in workload.modules["generator"].parameters():
        p.data.fill_(math.nan)
    assert math.isnan(workload.evaluate(trainer)["test_frechet"])


@pytest.mark.xdist_group("torchrun")
def test_two_processes_train_together(tmp_path, two_processes):
    """Batch normalization sees its own part, so the numbers are near those of one process, not equal to them."""
    for name in GANS:
        session.run(task(name), plan(task(name), scale="smoke", names=["Adam"], epochs=1), tmp_path, cpu=True)
    one, two = ({run.config.task: run for run in load([out])} for out in (tmp_path, two_processes / "gans"))
    for name in GANS:
        assert two[name].environment["processes"] == 2
        assert two[name].test == pytest.approx(one[name].test, rel=0.2)
        assert two[name].epochs[0]["train_loss"] == pytest.approx(one[name].epochs[0]["train_loss"], rel=0.1)
