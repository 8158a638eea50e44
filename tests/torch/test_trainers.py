"""The optimizers in the hands of trainers: each trains a tiny model, saves it and resumes to the bit.

accelerate comes with the lab; transformers, lightning and hydra-core with the extra `test-trainers`.
"""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import adabelief
from adabelief import AdaBelief, AdaBeliefW

pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def package(name):
    return pytest.importorskip(
        name, reason=f"needs {name}: pip install 'adabelief[test-trainers]'", exc_type=ImportError
    )


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def batches(n):
    return [torch.randn(4, 7, generator=torch.Generator().manual_seed(seed)) for seed in range(n)]


def same(model, other):
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), other.parameters(), strict=True))


def scaler():
    """One that has to halve its scale at first, since the loss times it is inf in half precision."""
    return torch.amp.GradScaler("cpu", init_scale=2.0**24)


# accelerate


def test_accelerate():
    """It loads the optimizer's own state before the first step, and wraps it."""
    accelerator = package("accelerate").Accelerator(cpu=True)
    ours = network()
    twin = copy.deepcopy(ours)
    plain = AdaBeliefW(twin.parameters(), lr=0.01)
    prepared, optimizer = accelerator.prepare(ours, AdaBeliefW(ours.parameters(), lr=0.01))
    for x in batches(5):
        for module, each in ((prepared, optimizer), (twin, plain)):
            each.zero_grad()
            accelerator.backward((module(x) ** 2).mean())
            each.step()
    assert same(ours, twin)


@pytest.mark.parametrize("ways", [[], ["fsdp2"]], ids=["DDP", "FSDP2"])
def test_accelerate_on_two_processes(ways, tmp_path):
    """State in 8 bits, accumulation, clipping, save_state and load_state."""
    package("accelerate")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "yes"}
    own |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.torch.accelerated", str(tmp_path), *ways]
    processes = [
        subprocess.Popen(
            command,
            env=os.environ | own | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        said = [process.communicate(timeout=600) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said


# Hugging Face Trainer


def test_hugging_face_trainer(tmp_path, monkeypatch):
    """By optimizer_cls_and_kwargs; it makes the groups, and its own decay and learning rate are in them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    transformers = package("transformers")

    def trainer():
        torch.manual_seed(0)
        config = transformers.GPT2Config(vocab_size=32, n_positions=8, n_embd=16, n_layer=1, n_head=2)
        tokens = torch.randint(0, 32, (32, 8), generator=torch.Generator().manual_seed(1))
        return transformers.Trainer(
            model=transformers.GPT2LMHeadModel(config),
            args=transformers.TrainingArguments(
                output_dir=str(tmp_path),
                max_steps=6,
                save_steps=3,
                per_device_train_batch_size=4,
                gradient_accumulation_steps=2,
                learning_rate=1e-3,
                weight_decay=0.1,
                use_cpu=True,
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=[{"input_ids": x, "labels": x} for x in tokens],
            optimizer_cls_and_kwargs=(AdaBeliefW, {"lr": 1e-3, "eps": 1e-12}),
        )

    through, resumed = trainer(), trainer()
    through.train()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert same(through.model, resumed.model)
    assert type(through.optimizer.optimizer) is AdaBeliefW
    assert [(g["weight_decay"], g["eps"]) for g in through.optimizer.param_groups] == [(0.1, 1e-12), (0.0, 1e-12)]
    assert {float(entry["step"]) for entry in resumed.optimizer.state.values()} == {6.0}


# Lightning and Fabric


def test_lightning(tmp_path):
    """16-mixed with a scaler that skips, clipping, accumulation, a schedule; resumed from its checkpoint."""
    lightning = package("lightning")
    from lightning.pytorch.plugins.precision import MixedPrecision

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            return self.net(batch[0]).float().square().mean()

        def configure_optimizers(self):
            optimizer = AdaBeliefW(self.parameters(), lr=1e-2)
            return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def fit(epochs, checkpoint=None):
        module = Module()
        trainer = lightning.Trainer(
            accelerator="cpu",
            devices=1,
            max_epochs=epochs,
            accumulate_grad_batches=2,
            gradient_clip_val=0.5,
            plugins=[MixedPrecision("16-mixed", "cpu", scaler())],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module, DataLoader(TensorDataset(torch.cat(batches(8))), 4), ckpt_path=checkpoint)
        return module, trainer

    through, trainer = fit(4)
    fit(2)[1].save_checkpoint(tmp_path / "half.ckpt")
    resumed, its = fit(4, str(tmp_path / "half.ckpt"))
    assert same(through, resumed)
    (steps,) = {float(entry["step"]) for entry in its.optimizers[0].state.values()}
    assert 8 <= steps < 16  # the scaler has skipped some
    assert trainer.precision_plugin.scaler.get_scale() == its.precision_plugin.scaler.get_scale() < 2.0**24


def test_fabric(tmp_path):
    package("lightning")
    from lightning.fabric import Fabric
    from lightning.fabric.plugins import MixedPrecision

    def prepared():
        fabric = Fabric(accelerator="cpu", devices=1, plugins=[MixedPrecision("16-mixed", "cpu", scaler())])
        model = network()
        return fabric, *fabric.setup(model, AdaBelief(model.parameters(), lr=1e-2))

    def train(fabric, model, optimizer, xs):
        for i, x in enumerate(xs):
            last = i % 2 == 1
            with fabric.no_backward_sync(model, enabled=not last):
                fabric.backward(model(x).float().square().mean() / 2)
            if last:
                fabric.clip_gradients(model, optimizer, max_norm=0.5, error_if_nonfinite=False)
                optimizer.step()
                optimizer.zero_grad()

    def state(fabric, model, optimizer):
        return {"model": model, "optimizer": optimizer, "scaler": fabric._precision.scaler.state_dict()}

    through, resumed = prepared(), prepared()
    train(*through, batches(24)[:16])
    through[0].save(tmp_path / "half.ckpt", state(*through))
    train(*through, batches(24)[16:])
    rest = resumed[0].load(tmp_path / "half.ckpt", {"model": resumed[1], "optimizer": resumed[2]})
    resumed[0]._precision.scaler.load_state_dict(rest["scaler"])
    train(*resumed, batches(24)[16:])
    assert same(through[1], resumed[1])
    assert not same(through[1], network())


# Hydra


@pytest.mark.parametrize("target", ["adabelief.AdaBeliefW", "adabelief.torch.AdaBeliefW"])
def test_hydra(target):
    hydra = package("hydra")
    from omegaconf import OmegaConf

    config = OmegaConf.create({"_target_": target, "lr": 0.01, "betas": [0.9, 0.99], "state_bits": [16, 8]})
    optimizer = hydra.utils.instantiate(config, network().parameters())
    assert type(optimizer) is adabelief.AdaBeliefW
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["state_bits"]) == (0.01, (0.9, 0.99), (16, 8))
    assert (type(group["betas"]), type(group["state_bits"])) == (tuple, tuple)  # not of omegaconf, in a checkpoint
    assert type(hydra.utils.instantiate(config, _partial_=True)(network().parameters())) is adabelief.AdaBeliefW
