"""Parameter groups of models: torch's, those of other packages, sharded ones and such that are on no device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from adabelief import AdaBeliefW
from adabelief.torch import parameter_groups


class LlamaRMSNorm(nn.Module):
    """As other packages have it: no class of torch's."""

    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 1)
        self.norm1 = LlamaRMSNorm(width)
        self.gamma_1 = nn.Parameter(torch.ones(width))
        self.mlp = nn.Linear(width, width)


class Model(nn.Module):
    """Patches, blocks, a norm, and a head that shares its weight with the embedding."""

    def __init__(self, width=4, depth=3):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        self.patches = nn.Conv2d(3, width, 2)
        self.embedding = nn.Embedding(7, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.recurrent = nn.LSTM(width, width)
        self.head = nn.Linear(width, 7)
        self.head.weight = self.embedding.weight


OF_BLOCK = ["attention.in_proj_weight", "attention.out_proj.weight", "mlp.weight"]
DECAYED = [
    "patches.weight",
    *(f"blocks.{i}.{name}" for i in range(3) for name in OF_BLOCK),
    "recurrent.weight_ih_l0",
    "recurrent.weight_hh_l0",
]


def names(groups, name):
    return [n for group in groups if group["name"] == name for n, _ in group["params"]]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_norms_biases_and_embeddings_do_not_decay(device):
    with torch.device(device):
        model = Model()
    groups = parameter_groups(model, 0.1)
    assert [(group["name"], group["weight_decay"]) for group in groups] == [("no_decay", 0.0), ("decay", 0.1)]
    assert names(groups, "decay") == DECAYED
    everything = {name for name, _ in model.named_parameters()}
    assert set(names(groups, "no_decay")) == everything - set(DECAYED)
    assert all("lr" not in group for group in groups)


def test_an_optimizer_takes_them_with_their_names():
    model = Model()
    optimizer = AdaBeliefW(parameter_groups(model, 0.1), lr=1e-2)
    assert optimizer.param_groups[1]["param_names"] == DECAYED
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    before = model.blocks[0].mlp.weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(model.blocks[0].mlp.weight.detach(), before * (1 - 1e-3))
    assert (model.norm.weight == 1).all()


def test_frozen_parameters_are_left_out():
    model = Model()
    model.patches.requires_grad_(False)
    assert not any(n.startswith("patches") for group in parameter_groups(model, 0.1) for n, _ in group["params"])


def test_wrappers_leave_no_trace_in_names():
    compiled = torch.compile(Model())
    assert names(parameter_groups(compiled, 0.1), "decay") == DECAYED


def test_layers_learn_the_slower_the_further_down_they_are():
    groups = parameter_groups(Model(), 0.1, 0.5, lr=1.0)
    rates = {n: group["lr"] for group in groups for n, _ in group["params"]}
    assert {rates[n] for n in ("cls_token", "patches.weight", "embedding.weight")} == {0.5**4}
    assert [rates[f"blocks.{i}.mlp.weight"] for i in range(3)] == [0.5**3, 0.5**2, 0.5]
    assert {rates[n] for n in ("norm.weight", "recurrent.weight_hh_l0", "head.bias")} == {1.0}
    assert len({group["name"] for group in groups}) == len(groups) == 10
    assert {group["weight_decay"] for group in groups if group["name"].endswith("no_decay")} == {0.0}


class TwoStacks(nn.Module):
    """An encoder and a decoder, with a norm between them, and a stack within a stack."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(2, 2)
        self.encoder = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)) for _ in range(2)))
        self.between = nn.LayerNorm(2)
        self.decoder = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])


def test_stacks_are_counted_on_one_after_another():
    groups = parameter_groups(TwoStacks(), 0.0, 0.1, lr=1.0)
    rates = {n: group["lr"] for group in groups for n, _ in group["params"] if n.endswith("weight")}
    expected = {"stem": 5, "encoder.0.0": 4, "encoder.0.1": 4, "encoder.1.0": 3, "encoder.1.1": 3, "between": 3}
    expected |= {"decoder.0": 2, "decoder.1": 1}
    assert rates == {f"{n}.weight": pytest.approx(0.1**power) for n, power in expected.items()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(weight_decay=-1), "weight_decay must be a finite number, at least 0, got -1"),
        (dict(weight_decay=0, lr="fast"), "lr must be a finite number, at least 0, got 'fast'"),
        (dict(weight_decay=0, layer_decay=0, lr=1), r"layer_decay must be a number in \(0, 1\], got 0"),
        (dict(weight_decay=0, layer_decay=0.5), "layer_decay=0.5 needs the last layer's learning rate: pass lr="),
        (dict(weight_decay=0, layer_decay=0.5, lr=1), "layer_decay finds no layers in Linear"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(nn.Linear(2, 2), **options)


def test_parameters_alone_are_refused():
    with pytest.raises(TypeError, match=r"model must be an nn\.Module, got generator"):
        parameter_groups(nn.Linear(2, 2).parameters(), 0.1)


def test_flat_parameters_are_refused():
    model = nn.Linear(2, 2)
    model.weight._is_flat_param = True
    with pytest.raises(ValueError, match="wrap it with use_orig_params=True"):
        parameter_groups(model, 0.1)
