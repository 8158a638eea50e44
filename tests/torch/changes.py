"""What may happen to an optimizer's parameters, gradients and state between two steps."""

from __future__ import annotations

import copy

import torch
from torch.utils._pytree import tree_map_only

from tests.oracle import set_gradients


def parameters(device: str = "cpu") -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(s, generator=generator))
        for s in [(8, 4), (5,), (), (2, 3, 3, 3), (4, 4), (8, 4)]
    ]


def replace_parameter_memory(o, params):
    params[0].data = params[0].data.clone() * 2


def transpose_parameter(o, params):
    params[4].data = params[4].data.t()


def shorten_parameter(o, params):
    """The same address, fewer elements."""
    p = params[0]
    p.data = p.data[:3]
    p.grad = None
    p.grad = torch.ones_like(p)
    o.state[p] = {name: x[:3].clone() if x.ndim else x for name, x in o.state[p].items()}


def narrow_parameter(o, params):
    """The same address and number of elements, another type."""
    p = params[1]
    values = p.detach().to(torch.bfloat16)
    p.grad = None
    p.data = p.data.view(torch.bfloat16)[:5].copy_(values)
    p.grad = torch.ones_like(p)


def shorten_state(o, params):
    """The same address, fewer elements; the parameter's own are fewer as well."""
    for x in (params[0], *o.state[params[0]].values()):
        x.data = x.data[:3] if x.ndim else x.data
    params[0].grad = None
    params[0].grad = torch.ones_like(params[0])


def replace_gradients(o, params):
    o.zero_grad()
    set_gradients(params, 77)


def drop_gradients(o, params):
    params[1].grad = params[3].grad = None


def bring_gradient_back(o, params):
    params[1].grad = None
    o.step()
    params[1].grad = torch.ones(5)


def strided_gradient(o, params):
    params[0].grad = torch.randn(4, 8, generator=torch.Generator().manual_seed(5)).t()


def expanded_gradient(o, params):
    params[1].grad = torch.ones(1).expand(5)


def replace_state_tensor(o, params):
    entry = o.state[params[0]]
    entry["exp_avg"] = entry["exp_avg"] * 0.5


def replace_state_memory(o, params):
    entry = o.state[params[3]]
    entry["exp_avg_var"].data = entry["exp_avg_var"].data * 2


def replace_state_entry(o, params):
    o.state[params[2]] = {name: x.clone() for name, x in o.state[params[2]].items()}
    o.state[params[2]]["exp_avg"] += 1


def delete_state_entry(o, params):
    del o.state[params[0]]


def clear_state(o, params):
    o.state.clear()


def replace_state(o, params):
    o.state = copy.copy(o.state)
    o.state[params[0]] = {}


def swap_state_entries(o, params):
    """The same entries in the same order, of other parameters."""
    keys = list(o.state)
    i, j = (next(n for n, key in enumerate(keys) if key is p) for p in (params[0], params[5]))
    keys[i], keys[j] = keys[j], keys[i]
    entries = list(o.state.values())
    o.state.clear()
    o.state.update(zip(keys, entries, strict=True))


def set_step(o, params):
    o.state[params[0]]["step"].fill_(100.0)


def load(o, params):
    o.load_state_dict(copy.deepcopy(o.state_dict()))


def turn_on_amsgrad(o, params):
    o.param_groups[0]["amsgrad"] = True


def change_options(o, params):
    o.param_groups[0].update(lr=0.5, weight_decay=0.3, maximize=True, betas=(0.8, 0.95), eps=1e-6)


def add_group(o, params):
    params.append(torch.nn.Parameter(torch.ones(3)))
    o.add_param_group({"params": params[-1], "lr": 0.2})
    params[-1].grad = torch.ones(3)


def remove_parameter(o, params):
    o.state.pop(o.param_groups[0]["params"].pop(1))


def swap_parameter(o, params):
    """As accelerate and FSDP do."""
    new = torch.nn.Parameter(params[0].detach().clone() + 1)
    new.grad = torch.ones_like(new)
    o.param_groups[0]["params"][0] = params[0] = new


def resize_gradient(o, params):
    params[1].grad.data = torch.arange(5.0)


def double_gradient(o, params):
    """Another type behind the same object."""
    params[1].grad.data = torch.arange(5.0, dtype=torch.float64)


class Doubled(torch.Tensor):
    """Worth twice what its memory says."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            args = tree_map_only(cls, lambda x: 2 * x.as_subclass(torch.Tensor), args)
            return function(*args, **kwargs or {})


def subclassed_gradient(o, params):
    params[1].grad = torch.arange(5.0).as_subclass(Doubled)


def negated_gradient(o, params):
    """Its memory holds the opposite of its value."""
    params[2].grad = torch.tensor(1 + 2j).conj().imag


def swap_tensors(o, params):
    """The same objects, with each other's tensors inside."""
    for p in params:
        p.grad = None
    torch.utils.swap_tensors(params[0], params[5])
    set_gradients(params, 9)


def swap_state_tensors(o, params):
    torch.utils.swap_tensors(o.state[params[0]]["exp_avg"], o.state[params[5]]["exp_avg"])


def tuple_of_parameters(o, params):
    o.param_groups[0]["params"] = tuple(o.param_groups[0]["params"])


def replace_step(o, params):
    for p in params:
        o.state[p]["step"] = o.state[p]["step"].double()


def widen_state(o, params):
    """The same address and shape, another type."""
    entry, memory = o.state[params[1]], torch.zeros(5, dtype=torch.float64)
    entry["exp_avg"].data = memory.view(torch.float32)[:5].copy_(entry["exp_avg"].detach())
    o.step()
    entry["exp_avg"].data = memory.copy_(entry["exp_avg"].detach().double())


def shorten_everything(o, params):
    """The same addresses and strides, fewer rows; the gradient's memory has room for all."""
    p = params[0]
    p.grad = None
    for x in (p, *o.state[p].values()):
        x.data = x.data[:3] if x.ndim else x.data
    p.grad = torch.ones(8, 4)[:3]


CHANGES = [
    *(double_gradient, subclassed_gradient, negated_gradient, swap_tensors, swap_state_tensors, replace_step),
    *(tuple_of_parameters, widen_state, shorten_everything),
    *(replace_parameter_memory, transpose_parameter, shorten_parameter, replace_gradients, drop_gradients),
    *(bring_gradient_back, narrow_parameter, shorten_state, swap_state_entries),
    *(strided_gradient, expanded_gradient, replace_state_tensor, replace_state_memory, replace_state_entry),
    *(delete_state_entry, clear_state, replace_state, set_step, load, turn_on_amsgrad, change_options, add_group),
    *(remove_parameter, swap_parameter, resize_gradient),
]
