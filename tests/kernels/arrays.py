"""Lists of arrays for the Triton kernel: on a GPU where there is one, or else CPU tensors for Triton's interpreter."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import torch

from adabelief.kernels import gpu
from adabelief.kernels.layout import AMSGRAD, CENTRALIZED_STEPS, LOOKAHEAD, SCALARS, row
from adabelief.rule import coefficients
from tests.oracle import Walk, array, numpy

NEEDED = "triton", "3.3", "Triton's interpreter and compiler interface of 3.3 or later"
"""For pytest.importorskip."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAMES = dict(m="exp_avg", s="exp_avg_var", s_max="max_exp_avg_var", slow="slow_buffer")
"""Of the state's columns, in the reference."""


def copied(module, name):
    """A second copy of a module, as if it were imported for the first time now."""
    spec = importlib.util.spec_from_file_location(name, module.__file__)
    copy = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


@pytest.fixture(scope="module")
def interpreted():
    """A copy of the kernel that Triton's interpreter runs on CPU tensors; decided when a function is defined."""
    pytest.importorskip(*NEEDED)
    from triton.language import standard

    from adabelief.kernels import gpu_codes, gpu_places, gpu_rule

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for below in (gpu_codes, gpu_places):  # which gpu_rule imports by name
            patch.setitem(sys.modules, below.__name__, below)
            copied(below, below.__name__)
        names = "interpreted_gpu", "interpreted_gpu_rule"
        for name in names:
            patch.setitem(sys.modules, name, None)
        module, rule = map(copied, (gpu, gpu_rule), names)
        # the interpreter adds up and compares by NumPy what it knows, and ours one by one
        rule._add = standard._sum_combine
        sys.modules[gpu_codes.__name__]._most = standard._elementwise_max
        for below in (gpu_codes, gpu_places):
            sys.modules[below.__name__] = below
        module.gpu_rule = rule
        yield module


@pytest.fixture(scope="module")
def kernel(request):
    """The module that steps tensors of DEVICE."""
    pytest.importorskip(*NEEDED)
    return gpu if DEVICE == "cuda" else request.getfixturevalue("interpreted")


needs_interpreter = pytest.mark.skipif(DEVICE == "cuda", reason="it watches the interpreter, as no GPU can be watched")


class Arrays:
    """A list of arrays with random state, stepped by a table and compared with the reference.

    Array i has made i steps before where `apart`, and as many as the others otherwise.
    """

    LR = 0.1
    """Steps far above the last place of p, so that the tolerance of the step is what decides."""

    def __init__(self, module, shapes, dtype, *, offset=0, apart=False, **options):
        self.module, self.dtype, self.apart, self.options = module, dtype, apart, {"lr": self.LR} | options
        self.device = torch.device(DEVICE if module is gpu else "cpu")
        self.wide = torch.promote_types(dtype, torch.float32)
        self.generator = torch.Generator().manual_seed(len(shapes))
        self.each, self.walks = [], []
        for i, shape in enumerate(shapes):
            new = {name: self.random(shape, dtype, offset) for name in "pg"}
            new |= {name: self.random(shape, self.wide, offset) for name in "ms"}
            if options.get("amsgrad"):
                new["s_max"] = self.random(shape, self.wide, offset).square_()
            if options.get("k"):
                new["slow"] = self.random(shape, self.wide, offset)
            new["s"].square_()
            state = {NAMES[name]: array(new[name]) for name in NAMES if name in new}
            self.each.append(new)
            self.walks.append(Walk(self.options, state=state | {"step": i if apart else 3}))
        self.table = module.Table([self.row(x) for x in self.each], self.name(), self.device)

    def name(self):
        return str(self.dtype).removeprefix("torch.")

    def random(self, shape, dtype, offset=0):
        """Normal numbers in memory that begins `offset` elements after an address divisible by 64."""
        n = int(np.prod(shape))
        memory = torch.zeros(n + offset + 64, dtype=dtype, device=self.device)
        first = offset + -memory.data_ptr() % 64 // dtype.itemsize
        x = memory[first : first + n].view(shape)
        return x.copy_(torch.randn(shape, generator=self.generator, dtype=torch.float64))

    def row(self, x):
        centralized = self.options.get("use_gc") and x["p"].ndim > 1
        addresses = {name: y.data_ptr() for name, y in x.items()}
        return row(**addresses, elements=x["p"].numel(), rows=len(x["p"]) if centralized else 0)

    def coefficients(self, skip=0.0):
        used = {"amsgrad", "maximize", "grad_scale", "use_gc", "gc_loc", "k", "alpha"}
        rows = []
        for walk in self.walks if self.apart else self.walks[:1]:
            t, k = walk.state["step"] + 1, self.options.get("k", 0)
            c = coefficients(t, **{name: value for name, value in self.options.items() if name not in used})
            gain = (-1.0 if self.options.get("maximize") else 1.0) / self.options.get("grad_scale", 1.0)
            due = float(bool(k) and t % k == 0)
            scalars = dict(
                c._asdict(), gain=gain, alpha=self.options.get("alpha", 0.5), synchronize=due, skip=skip, t=t
            )
            rows.append([scalars[name] for name in SCALARS])
        return torch.tensor(rows, dtype=torch.float64, device=self.device) if self.apart else rows[0]

    def flags(self):
        options = self.options
        steps = 0 if options.get("gc_loc", True) else CENTRALIZED_STEPS
        return steps | (AMSGRAD if options.get("amsgrad") else 0) | (LOOKAHEAD if options.get("k") else 0)

    def update(self, **changes):
        self.table.update(self.flags(), self.coefficients(**changes))

    def steps(self, n=3):
        for _ in range(n):
            for x in self.each:
                x["g"].copy_(self.random(x["g"].shape, torch.float64))
            before = [(array(x["p"]), x["g"].clone()) for x in self.each]
            self.update()
            for x, walk, (p, g) in zip(self.each, self.walks, before, strict=True):
                assert torch.equal(x["g"], g)
                state = {NAMES[name]: numpy(x[name]) for name in NAMES if name in x}
                walk.step(p, array(g), array(x["p"]), state, torch.finfo(self.dtype))
        return self
