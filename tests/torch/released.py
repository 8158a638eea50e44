"""A model that release and offload are tried on, how it is trained, and what must be the same after."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """A tied weight, one that is frozen, one that not every backward uses, and rows long enough to be coded."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(70, 64)
        self.body = nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Tanh(), nn.Linear(64, 64))
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.sometimes = nn.Linear(64, 64)
        self.head = nn.Linear(64, 70)
        self.head.weight = self.embedding.weight
        self.to(dtype)

    def forward(self, tokens: torch.Tensor, skip: bool = False) -> torch.Tensor:
        x = self.frozen(self.body(self.embedding(tokens)))
        return self.head(x if skip else self.sometimes(x)).float().square().mean()


def train(net, optimizer, steps=8, schedule=True, begin=0):
    """A loop that knows nothing of release; it unfreezes something on the way."""
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5) if schedule else None
    for i in range(begin, begin + steps):
        if i == 5:
            net.frozen.requires_grad_(True)
        tokens = torch.randint(70, (3, 5), generator=torch.Generator().manual_seed(i))
        net(tokens.to(net.head.bias.device), skip=i % 3 == 1).backward()
        optimizer.step()
        optimizer.zero_grad()
        if scheduler:
            scheduler.step()


def groups(net):
    parts = [p for name, p in net.named_parameters() if "bias" not in name]
    biases = [p for name, p in net.named_parameters() if "bias" in name]
    return [{"params": parts}, {"params": biases, "weight_decay": 0.0, "lr": 0.02}]


def states_equal(one, other):
    a, b = one.state_dict(), other.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for i, entry in a["state"].items():
        assert entry.keys() == b["state"][i].keys()
        for name, x in entry.items():
            assert torch.equal(x, b["state"][i][name]), (i, name)


KINDS = {
    "plain": (torch.float32, {"weight_decay": 0.1}),
    "8 bits": (torch.float32, {"state_bits": 8}),
    "24-bit weights": (torch.bfloat16, {"state_bits": (16, 8), "master_weight_bits": 24}),
    "dithered": (torch.bfloat16, {"stochastic_rounding": True, "amsgrad": True}),
}
