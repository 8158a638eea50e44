"""The Triton kernel as it is compiled, for GPUs that need not be there."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch

from adabelief.kernels import gpu
from adabelief.kernels.layout import KEPT, M_CODES, P_24, S_CODES, SCALARS, row
from tests.kernels.arrays import DTYPES, NEEDED

triton = pytest.importorskip(*NEEDED)
tl = pytest.importorskip("triton.language")
gpu_rule = pytest.importorskip("adabelief.kernels.gpu_rule")

TARGETS = {"A100": ("cuda", 80, 32), "H100": ("cuda", 90, 32), "MI300": ("hip", "gfx942", 64)}

INSTRUCTIONS = {
    "cuda": (r"\bld\.global\.(v4\.b32|v2\.b64)\b", r"\bst\.global\.(v4\.b32|v2\.b64)\b"),
    "hip": (r"\b(?:global|buffer)_load_dwordx4\b", r"\b(?:global|buffer)_store_dwordx4\b"),
}
"""Loads and stores of 128 bits."""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a kernel for a GPU that need not be there; returns what the GPU is to run."""
    compiler, targets = pytest.importorskip("triton.compiler"), pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compile(kernel, target, dtype, rows=False, **constants):
        backend, arch, lanes = TARGETS[target]
        wide = "fp64" if dtype == torch.float64 else "fp32"
        constants = dict(M_BITS=32, S_BITS=32, P_BITS=0) | constants
        constants |= dict(T=getattr(tl, str(dtype).removeprefix("torch.")), DOUBLE=dtype == torch.float64)
        monkeypatch.setattr(torch.version, "hip", "6.0" if backend == "hip" else None)
        constants |= {"BLOCK": gpu._block(), "values" if rows else "coefficients": None}
        scalars = {"coefficients": "*fp64"} if rows else {"values": ("fp32",) * len(SCALARS)}
        arguments = dict(places="*i64", gradients="*i64", owners="*i32", means=f"*{wide}")
        arguments |= dict(stride="i32") | scalars | dict.fromkeys(constants, "constexpr")
        source = compiler.ASTSource(kernel, arguments, {(kernel.arg_names.index(k),): v for k, v in constants.items()})
        options = gpu.compiler_options(M_CODES if constants["M_BITS"] == 8 else 0)
        asm = triton.compile(source, target=targets.GPUTarget(backend, arch, lanes), options=options).asm
        return asm["ptx" if backend == "cuda" else "amdgcn"]

    return compile


def wide_accesses(asm, target):
    """How many loads and stores of 128 bits there are."""
    return tuple(len(re.findall(pattern, asm)) for pattern in INSTRUCTIONS[TARGETS[target][0]])


@pytest.mark.parametrize("everything", ["", "gradients", "steps"])
@pytest.mark.parametrize(
    ("dtype", "rows"), [*((dtype, dtype == torch.float64) for dtype in DTYPES), (torch.float32, True)], ids=str
)
@pytest.mark.parametrize("target", TARGETS)
def test_all_arrays_are_read_and_written_in_128_bits(compiled, target, dtype, rows, everything):
    """8 elements a thread: so many accesses for each array."""
    flags = dict(AMSGRAD=bool(everything), LOOKAHEAD=bool(everything), CENTRALIZED=everything)
    asm = compiled(gpu_rule.update, target, dtype, rows, **flags)
    narrow = 8 * dtype.itemsize // 16
    state = 8 * max(dtype.itemsize, 4) // 16
    more = 2 * state if everything else 0
    assert wide_accesses(asm, target) == (2 * narrow + 2 * state + more, narrow + 2 * state + more)
    assert not re.search(r"approx|div\.full|\.ftz", asm)
    if target == "MI300":
        assert "v_div_fixup" in asm
    else:
        kind = "f64" if dtype == torch.float64 else "f32"
        assert re.search(rf"\bsqrt\.rn\.{kind}\b", asm)
        assert re.search(rf"\bdiv\.rn\.{kind}\b", asm)
        assert not re.search(r"\bfma\.", asm), "a product and its sum are rounded one by one, as everywhere"


@pytest.mark.parametrize(
    ("dtype", "bits", "weights", "loads", "stores"),
    [
        (torch.float32, 8, 0, (4, 2), (2, 2)),  # p, g: 4 elements at a time; m, s: 8 codes
        (torch.bfloat16, 8, 24, (2, 3), (1, 3)),  # m, s, and the rest of p
        (torch.bfloat16, 8, 16, (2, 2), (1, 2)),
        (torch.float32, 16, 0, (6, 0), (4, 0)),
        (torch.bfloat16, 16, 32, (5, 0), (4, 0)),
    ],
    ids=str,
)
@pytest.mark.parametrize("target", ["A100", "H100"])
def test_codes_are_read_and_written_together(compiled, target, dtype, bits, weights, loads, stores):
    """All that a thread has of an array at once: 8 bytes, or 16 at a time; one by one only at odd addresses."""
    flags = dict(AMSGRAD=False, LOOKAHEAD=False, CENTRALIZED="")
    rows = target == "H100"  # which makes no difference here
    asm = compiled(gpu_rule.update, target, dtype, rows, M_BITS=bits, S_BITS=bits, P_BITS=weights, **flags)
    for kind, expected in (("ld", loads), ("st", stores)):
        found = tuple(len(re.findall(rf"\b{kind}\.global\.{width}\.b32\b", asm)) for width in ("v4", "v2"))
        assert found == expected
    assert not re.search(r"approx|div\.full|\.ftz", asm)
    if bits == 8:  # an exponent is found within a warp
        assert len(re.findall(r"\bredux\.sync\.max", asm)) == 2 * 2
        assert ".maxnreg 64" in asm


@pytest.mark.parametrize("centralized", ["gradients", "steps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_means_read_128_bits(compiled, target, dtype, centralized):
    asm = compiled(gpu_rule.take_means, target, dtype, AMSGRAD=True, CENTRALIZED=centralized)
    loads, _ = wide_accesses(asm, target)
    assert loads == 2 * 8 * dtype.itemsize // 16 + (
        3 * 8 * 4 // 16 if centralized == "steps" else 0
    )  # g, p; m, s, s_max


@pytest.mark.parametrize("target", ["A100", "H100"])
@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_halves_are_rounded_to_nearest(compiled, target, dtype, name):
    asm = compiled(gpu_rule.update, target, dtype, AMSGRAD=False, LOOKAHEAD=False, CENTRALIZED="")
    conversions = set(re.findall(rf"cvt\.\S*\.{name}(?:x2)?\.f32", asm))
    assert conversions
    assert all(x.startswith("cvt.rn.") for x in conversions)


class Driver:
    """A driver of a GPU that is not there."""

    def get_current_target(self):
        return pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


class Compiled:
    """A kernel in place of one that runs: the arguments of its launches, by name."""

    def __init__(self, kernel, log):
        self.kernel, self.log = kernel, log

    def __getitem__(self, grid):
        return lambda *arguments: self.log.append((grid, dict(zip(self.kernel.arg_names, arguments, strict=True))))


@pytest.mark.parametrize("flags", [0, M_CODES | S_CODES | P_24])
def test_nothing_that_varies_compiles_again(tmp_path, monkeypatch, flags):
    """Launches as `Table` makes them, up to the point where they would run."""
    jit = pytest.importorskip("triton.runtime.jit")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    run, launched, again = jit.JITFunction.run, Counter(), []

    def warm_up(self, *args, grid, warmup, **options):
        launched[self.fn.__name__] += 1
        run(self, *args, grid=grid, warmup=True, **options)
        named = dict(zip(self.arg_names, args, strict=False))
        first[self.fn.__name__] = named | {name: options[name] for name in self.arg_names[len(args) :]}
        return Compiled(self, again)

    first = {}
    monkeypatch.setattr(jit.JITFunction, "run", warm_up)
    scalars = torch.zeros(40, len(SCALARS), dtype=torch.float64)
    for n in (1, 2, 16, 31):
        addresses = dict.fromkeys(("p", "g", *KEPT), 64 * n + 1)
        rows = [row(**addresses, elements=5000 * n, rows=n, row_length=5000, first=n)] * n
        table = gpu.Table(rows, "bfloat16" if flags else "float32", torch.device("cpu"))
        for coefficients in (scalars[:n], scalars[1 : 1 + n], scalars[3 : 3 + n]):
            table.update(flags, coefficients)
        assert again[-1] == ((table._chunks, 1, 1), first["update"] | {"coefficients": coefficients})
        table.set_gradients([16] * n)
        for number in (0.0, 1.0, 16.0):
            table.update(flags, [number] * len(SCALARS))
        assert again[-2] == ((table._rows, 1, 1), first["take_means"] | {"values": (16.0,) * len(SCALARS)})
    assert launched == {"update": 8, "take_means": 8}
    assert len(again) == 32
    assert sorted(path.name for path in tmp_path.rglob("*.ptx")) == ["take_means.ptx"] * 2 + ["update.ptx"] * 2
