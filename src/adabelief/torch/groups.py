"""Parameter groups of a model: which weights decay, and how fast each layer learns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from adabelief.options import RATE, SHARE, check
from adabelief.torch import internals

UNDECAYED = (
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm),
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.Embedding,
    nn.EmbeddingBag,
)
"""Modules whose parameters do not decay."""

UNDECAYED_CLASS = re.compile(r"norm|embedding", re.IGNORECASE)
"""Of other packages those whose class is called so, as LlamaRMSNorm is."""

UNDECAYED_NAME = re.compile(
    r"(^|_)(bias|norm|ln|bn|pos|position|token|embed|embedding|scale|gamma|beta|temperature)s?\d*(_|$)"
)
"""Parameters of any module that shift, scale or embed, by a word of their own name."""

WRAPPERS = re.compile(r"\b(_fsdp_wrapped_module|_checkpoint_wrapped_module|_orig_mod)\.")
"""What sharding, checkpointing and compiling put into names."""


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    layer_decay: float | None = None,
    *,
    lr: float | None = None,
) -> list[dict[str, Any]]:
    """The parameters of a model in groups: what decays and what does not, and layer by layer if these differ in lr.

    Norms, biases and embeddings do not decay. They are known by the type of their module (torch's, and by the name of
    its class those of other packages); parameters that a module of another type has of its own by their names (`gamma`,
    `pos_embed`, `cls_token`, `..._bias`). Neither shapes nor values are looked at: a model on the meta device and a
    sharded one are grouped like the whole. A tied weight belongs where it is registered first. Parameters that need no
    gradient when this is called are left out, and what wrappers put into names (FSDP, compile) too.

    With `layer_decay` a layer's learning rate is lr · layer_decay^(L + 1 − i). Layers are the members of the model's
    stacks (an nn.ModuleList or nn.Sequential of modules of one class, the outermost ones, in the order in which they
    are registered), from i = 1 to L; what is registered before them has i = 0, what comes after them L + 1, the full
    rate, and what stands between two stacks goes with the layer before it (Clark et al., ELECTRA, 2020).

    Args:
        model: Its parameters are taken in their order.
        weight_decay: Of the parameters that decay.
        layer_decay: How much slower a layer learns than the one after it, above 0 and at most 1; None for the same rate
            everywhere.
        lr: The last layer's learning rate; needed with `layer_decay`.

    Returns:
        Groups for any optimizer of torch, those without parameters left out: `name` ("decay", "no_decay", with
        `layer_decay` "layer3.decay", ...), `params` as pairs of a name and a parameter, `weight_decay`, and `lr` where
        it is given.

    Raises:
        TypeError: If the model is none.
        ValueError: If a number is out of its range, `lr` is missing, or `layer_decay` finds no layers.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        >>> for group in parameter_groups(model, weight_decay=0.1):
        ...     print(group["name"], group["weight_decay"], [name for name, _ in group["params"]])
        decay 0.1 ['0.weight']
        no_decay 0.0 ['0.bias', '1.weight', '1.bias']
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(model).__name__}; its modules say what decays")
    check("weight_decay", weight_decay, *RATE)
    if lr is not None:
        check("lr", lr, *RATE)
    if layer_decay is None:
        layers: dict[str, int] = {}
    else:
        check("layer_decay", layer_decay, *SHARE)
        if lr is None:
            raise ValueError(f"layer_decay={layer_decay:g} needs the last layer's learning rate: pass lr=... as well")
        layers = _layers(model)
    groups: dict[str, dict[str, Any]] = {}
    layer, last = 0, len(layers)
    for name, p, decays in _parameters(model):
        kind, rate = "decay" if decays else "no_decay", lr
        if lr is not None and layer_decay is not None:
            of_stack = next((i for prefix, i in layers.items() if name.startswith(prefix)), None)
            layer = of_stack or (last + 1 if layer >= last else layer)
            kind, rate = f"layer{layer}.{kind}", lr * layer_decay ** (last + 1 - layer)
        group = groups.setdefault(kind, {"name": kind, "params": [], "weight_decay": weight_decay if decays else 0.0})
        group["params"].append((name, p))
        if rate is not None:
            group["lr"] = rate
    return list(groups.values())


def _parameters(model: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    """Names and parameters that need a gradient, each once, and whether they decay."""
    seen: set[int] = set()
    for path, module in model.named_modules():
        kept = isinstance(module, UNDECAYED) or bool(UNDECAYED_CLASS.search(type(module).__name__))
        for own, p in module.named_parameters(recurse=False):
            if internals.is_flat(p, pieces=False):
                raise ValueError(
                    f"{path or 'the model'} is sharded into flat parameters, in which all kinds lie together: wrap it "
                    "with use_orig_params=True, or use fully_shard"
                )
            if p.requires_grad and id(p) not in seen:
                seen.add(id(p))
                name = WRAPPERS.sub("", f"{path}.{own}" if path else own)
                yield name, p, not (kept or UNDECAYED_NAME.search(own))


def _layers(model: nn.Module) -> dict[str, int]:
    """The layers of a model's outermost stacks: how their parameters' names begin, and their numbers from 1 on."""
    stacks: list[str] = []
    layers: dict[str, int] = {}
    for path, module in model.named_modules():
        members = dict(module.named_children()) if isinstance(module, (nn.ModuleList, nn.Sequential)) else {}
        alike = len({type(member) for member in members.values()}) == 1 and len(members) > 1
        if alike and not any(path.startswith(outer) for outer in stacks) and any(True for _ in module.parameters()):
            stacks.append(f"{path}." if path else "")
            for name in members:
                layers[WRAPPERS.sub("", f"{stacks[-1]}{name}.")] = len(layers) + 1
    if not layers:
        raise ValueError(
            f"layer_decay finds no layers in {type(model).__name__}: it looks for an nn.ModuleList or nn.Sequential of "
            "at least two modules of one class; make groups by hand, or leave layer_decay out"
        )
    return layers
