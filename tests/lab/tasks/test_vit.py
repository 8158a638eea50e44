"""The vision transformer's task."""

from __future__ import annotations

from adabelief.lab.engine import session
from adabelief.lab.engine.config import plan
from adabelief.lab.task import Request
from adabelief.lab.tasks import task
from adabelief.lab.trainer import Moment
from tests.lab.data.pictures import cache, write_cifar  # noqa: F401 - a fixture


def test_smoke_learns(tmp_path):
    configs = plan(task("vit"), scale="smoke", names=["AdaBelief"], changes={"lr": 3e-3}, epochs=8)
    ((_, result),) = session.run(task("vit"), configs, tmp_path, cpu=True)
    assert result["test"] > 18  # a tenth would be chance, and of 300 images that is 13.5 at most in 39 of 40 cases


def test_small_takes_cifar_of_its_size(tmp_path):
    write_cifar(tmp_path, train=200, test=50)
    few = {"train_examples": 100, "validation_examples": 40, "test_examples": 30}
    (config,) = plan(task("vit"), names=["AdamW"], changes=few)
    experiment = task("vit").make(Request("", 0, config.batch_size, config.options, tmp_path))
    model = experiment.modules["model"]
    batch = next(iter(experiment.batches(0)))
    assert batch.inputs.shape == (100, 3, 32, 32)
    assert model(batch.inputs).shape == (100, 10)
    assert model.encoder.pos_embedding.shape == (1, 1 + 8 * 8, 64)
    # patches, class token and positions; blocks; the last norm and the head
    block = 4 * 64 * 64 + 4 * 64 + 2 * 64 * 128 + 128 + 64 + 4 * 64
    expected = 3 * 4 * 4 * 64 + 64 + 64 + 65 * 64 + 4 * block + 2 * 64 + 64 * 10 + 10
    assert sum(p.numel() for p in model.parameters()) == expected


def test_schedule_rises_and_falls():
    factors = [task("vit").schedule(Moment(epoch, 20, 0)) for epoch in range(20)]
    assert factors[:2] == [0.5, 1.0]
    assert sorted(factors[1:], reverse=True) == factors[1:]
    assert len(set(factors[1:])) == 19
    assert 0 < factors[-1] < 0.02
