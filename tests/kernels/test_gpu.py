"""The Triton kernel: its numbers on a GPU where there is one, or else in Triton's interpreter on CPU tensors; and its
instructions as they are compiled, for which no GPU is needed."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch

from adabelief.kernels import cpu, gpu
from adabelief.kernels.layout import AMSGRAD, ARRAYS, CENTRALIZED_STEPS, LOOKAHEAD, SCALARS
from adabelief.rule import coefficients, reference_step
from tests.oracle import STEP_TOLERANCE, array, assert_close

triton = pytest.importorskip("triton", "3.3", reason="Triton's interpreter and compiler interface of 3.3 or later")
tl = pytest.importorskip("triton.language")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]
NAMES = dict(exp_avg="m", exp_avg_var="s", max_exp_avg_var="s_max", slow_buffer="slow")


@pytest.fixture(scope="module")
def interpreted():
    """A second copy of the module, run by Triton's interpreter on CPU tensors; decided when a kernel is defined."""
    spec = importlib.util.spec_from_file_location("interpreted_gpu", gpu.__file__)
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        module._add = tl.standard._sum_combine  # the interpreter sums that by NumPy, and ours one by one
        yield module


@pytest.fixture(scope="module")
def kernel(request):
    """The module that steps tensors of DEVICE."""
    return gpu if DEVICE == "cuda" else request.getfixturevalue("interpreted")


needs_interpreter = pytest.mark.skipif(DEVICE == "cuda", reason="it watches the interpreter, as no GPU can be watched")


class Walk:
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
        self.arrays, self.states = [], []
        for i, shape in enumerate(shapes):
            new = {
                name: self.random(shape, self.wide if name in "m s s_max slow" else dtype, offset) for name in "pgms"
            }
            new["s"].square_()
            t = i if apart else 3
            state = dict(step=t, exp_avg=array(new["m"]), exp_avg_var=array(new["s"]))
            if options.get("amsgrad"):
                new["s_max"] = self.random(shape, self.wide, offset).square_()
                state["max_exp_avg_var"] = array(new["s_max"])
            if options.get("k"):
                new["slow"] = self.random(shape, self.wide, offset)
                state["slow_buffer"] = array(new["slow"])
            self.arrays.append(new)
            self.states.append(state)
        self.table = module.Table([self.row(x) for x in self.arrays], self.name(), self.device)

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
        addresses = [x[name].data_ptr() if name in x else 0 for name in ARRAYS]
        return [*addresses, x["p"].numel(), len(x["p"]) if centralized else 0]

    def coefficients(self, states, skip=0.0):
        used = {"amsgrad", "maximize", "grad_scale", "use_gc", "gc_loc", "k", "alpha"}
        rows = []
        for state in states:
            t, k = state["step"] + 1, self.options.get("k", 0)
            c = coefficients(t, **{name: value for name, value in self.options.items() if name not in used})
            gain = (-1.0 if self.options.get("maximize") else 1.0) / self.options.get("grad_scale", 1.0)
            due = float(bool(k) and t % k == 0)
            scalars = dict(c._asdict(), gain=gain, alpha=self.options.get("alpha", 0.5), synchronize=due, skip=skip)
            rows.append([scalars[name] for name in SCALARS])
        return torch.tensor(rows, dtype=torch.float64, device=self.device)

    def flags(self):
        options = self.options
        steps = 0 if options.get("gc_loc", True) else CENTRALIZED_STEPS
        return steps | (AMSGRAD if options.get("amsgrad") else 0) | (LOOKAHEAD if options.get("k") else 0)

    def update(self, **changes):
        states = self.states if self.apart else self.states[:1]
        self.table.update(self.flags(), self.coefficients(states, **changes))

    def steps(self, n=3):
        for _ in range(n):
            for x in self.arrays:
                x["g"].copy_(self.random(x["g"].shape, torch.float64))
            before = [array(x["p"]) for x in self.arrays]
            gradients = [x["g"].clone() for x in self.arrays]
            self.update()
            for i, (x, p, g) in enumerate(zip(self.arrays, before, gradients, strict=True)):
                assert torch.equal(x["g"], g)
                expected, self.states[i] = reference_step(p, array(g), self.states[i], **self.options)
                assert_close(x["p"], expected, p)
                for name in self.states[i].keys() - {"step"}:
                    now = self.states[i][name]
                    tolerance = STEP_TOLERANCE[self.wide] * np.abs(now).max(initial=0.0)
                    np.testing.assert_allclose(array(x[NAMES[name]]), now, rtol=0, atol=tolerance, err_msg=name)
        return self


SHAPES = [(0,), (1,), (7,), (1023,), (4097,), (4096,), (8, 1032)]

RULES = {
    "plain": {},
    "coupled": dict(weight_decay=0.1),
    "decoupled": dict(weight_decay=0.1, weight_decouple=True),
    "rectify": dict(rectify=True),
    "amsgrad": dict(amsgrad=True),
    "gain": dict(maximize=True, grad_scale=1024.0),
    "lookahead": dict(k=2, alpha=0.3),
    "all": dict(amsgrad=True, maximize=True, k=2, alpha=0.3, use_gc=True, weight_decay=0.1, rectify=True),
    "steps": dict(amsgrad=True, grad_scale=2.0, k=2, use_gc=True, gc_loc=False, weight_decay=0.1, rectify=True),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_are_those_of_the_reference(kernel, dtype, rule):
    Walk(kernel, SHAPES, dtype, **RULES[rule]).steps()


@pytest.mark.parametrize("offset", [0, 1, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_array_may_have_its_own_step_number(kernel, dtype, offset):
    """Some are due for Lookahead and others not, some rectified and others not; at odd addresses too."""
    walk = Walk(kernel, [(9,)] * 7 + [(4100,)], dtype, offset=offset, apart=True, k=3, rectify=True)
    walk.steps(4)


@pytest.mark.parametrize("gc_loc", [True, False], ids=["gradients", "steps"])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_are_centralized(kernel, dtype, weight_decay, gc_loc):
    """Short, odd and long rows, those that end within a chunk and those that fill several; beside an array of none."""
    shapes = [(5,), (700, 3), (3, 1), (16, 256), (3, 4097), (2, 1000, 9), (1, 8200)]
    Walk(kernel, shapes, dtype, use_gc=True, gc_loc=gc_loc, weight_decay=weight_decay, grad_scale=2.0).steps(2)


def test_a_skipped_array_stays_as_it_is(kernel):
    walk = Walk(kernel, [(5,), (4100,), (3, 40)], torch.float32, amsgrad=True, k=1, use_gc=True)
    before = [{name: x.clone() for name, x in arrays.items()} for arrays in walk.arrays]
    walk.arrays[1]["g"][3] = before[1]["g"][3] = float("inf")
    walk.update(skip=1.0)
    for now, then in zip(walk.arrays, before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_slow_weights_take_no_part_where_lookahead_is_not_due(kernel):
    """They are neither read nor written: no address is needed."""
    walk = Walk(kernel, [(5000,)], torch.float32)
    alone = walk.arrays[0]["p"].clone(), *(walk.arrays[0][name].clone() for name in "ms")
    walk.table.update(0, walk.coefficients(walk.states))
    once = [walk.arrays[0][name].clone() for name in "pms"]
    for name, x in zip("pms", alone, strict=True):
        walk.arrays[0][name].copy_(x)
    walk.table.update(LOOKAHEAD, walk.coefficients(walk.states))
    assert all(torch.equal(walk.arrays[0][name], x) for name, x in zip("pms", once, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moved_gradients_are_followed(kernel, dtype):
    walk = Walk(kernel, SHAPES, dtype)
    walk.steps(1)
    for offset in (1, 0):
        for x in walk.arrays:
            x["g"].fill_(float("nan"))
            x["g"] = walk.random(x["g"].shape, dtype, offset)
        walk.table.set_gradients([x["g"].data_ptr() for x in walk.arrays])
        walk.steps(1)


@pytest.mark.parametrize("n", [5000, 5001])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_beside_the_arrays_is_left_alone(kernel, dtype, n):
    walk = Walk(kernel, [(n,), (3, n)], dtype, amsgrad=True, k=1, use_gc=True)
    arrays = [(x, x.clone()) for x in walk.arrays[0].values()]
    around = [torch.as_strided(x, (64 // x.itemsize,), (1,), x.storage_offset() + n) for x, _ in arrays]
    assert all(x.numel() and not x.any() for x in around)
    walk.update()
    assert not any(x.any() for x in around)


@needs_interpreter
@pytest.mark.parametrize("odd", ["none", *ARRAYS, "size"])
def test_wide_accesses_are_for_aligned_arrays(interpreted, monkeypatch, odd):
    """One address that 16 does not divide, and the whole array is stepped the other way: a GPU would fault."""
    walk = Walk(interpreted, [(5000 + (odd == "size"),)], torch.float32, amsgrad=True, k=1)
    if odd in walk.arrays[0]:
        walk.arrays[0][odd] = walk.random((5000,), torch.float32, offset=1)
    step, choices = interpreted._update_elements, []
    aligned = step.arg_names.index("ALIGNED")

    def watched(*arguments):
        choices.append(arguments[aligned])
        step(*arguments)

    monkeypatch.setattr(interpreted, "_update_elements", watched)
    row = walk.row(walk.arrays[0])
    interpreted.Table([row], "float32", torch.device("cpu")).update(3, walk.coefficients(walk.states))
    assert choices == ([True, True] if odd == "none" else [True, False] if odd == "size" else [False, False])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_visible_and_alone(kernel, bad):
    walk = Walk(kernel, [(67,)], torch.float32)
    x = walk.arrays[0]
    x["g"][33] = bad
    with np.errstate(invalid="ignore"):
        walk.update()
    others = torch.arange(67) != 33
    assert not x["m"][33].isfinite()
    assert not x["s"][33].isfinite()
    assert x["p"][33].isnan()  # inf/inf, as in the reference
    assert all(x[name][others].isfinite().all() for name in "pms")


@pytest.mark.parametrize("infinite", ["p", "g"])
def test_no_decay_reads_nothing_into_infinite_numbers(kernel, infinite):
    """0 · inf would be nan: without coupled decay, p takes no part in the gradient."""
    walk = Walk(kernel, [(16, 9)], torch.float32, use_gc=True)
    walk.arrays[0][infinite][3, 4] = float("inf")
    with np.errstate(invalid="ignore"):
        walk.update()
    bad = ~torch.stack([walk.arrays[0][name].isfinite() for name in "ms"]).all(0)
    assert bad.any(1).nonzero().flatten().tolist() == ([] if infinite == "p" else [3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_wins_the_maximum(kernel, dtype):
    walk = Walk(kernel, [(5,)], dtype, amsgrad=True)
    x = walk.arrays[0]
    x["g"][1] = x["s_max"][2] = float("nan")
    walk.update()
    assert x["s_max"].isnan().tolist() == [False, True, True, False, False]


@pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_c_kernel_agrees(kernel, interpreted, dtype, rule):
    """To the last places: it may contract a product and a sum into one rounding."""
    ours, theirs = (Walk(module, SHAPES, dtype, **RULES[rule]) for module in (kernel, interpreted))
    ours.update()
    table = cpu.Table([theirs.row(x) for x in theirs.arrays], theirs.name())
    table.update(theirs.flags(), theirs.coefficients(theirs.states[:1])[0].tolist())
    eps = torch.finfo(dtype).eps
    for x, y in zip(ours.arrays, theirs.arrays, strict=True):
        for name in x:
            torch.testing.assert_close(x[name].cpu(), y[name], rtol=8 * eps, atol=8 * eps, msg=name)


def test_lists_of_nothing_launch_nothing():
    for rows in ([], [[0] * 7 + [3]] * 2):  # of none and of empty arrays
        gpu.Table(rows, "float32", torch.device("cpu")).update(0, torch.zeros(1, 13).double())


def test_offsets_go_beyond_32_bits():
    elements = [2**33 + 1, 0, 2**32]
    table = gpu.Table([[0] * 6 + [n, 4 if n % 2 == 0 else 0] for n in elements], "float32", torch.device("cpu"))
    plan = table._planned()
    assert plan.chunk_owners.bincount().tolist() == [2**21 + 1, 0, 2**20]
    assert plan.places[:, 5:9].tolist() == [
        [2**33 + 1, 0, 0, 0],
        [0, 2**21 + 1, 0, 0],
        [2**32, 2**21 + 1, 0, 2**30],
    ]


def test_wrong_arguments_are_named():
    table = gpu.Table([[0] * 6 + [8, 0]] * 3, "float32", torch.device("cpu"))
    shape = len(SCALARS)
    for wrong in (torch.zeros(1, shape), torch.zeros(2, shape).double(), torch.zeros(shape, 3).double().T):
        with pytest.raises(ValueError, match=r"coefficients must be contiguous, of type float64 and shape \(1, 13\)"):
            table.update(0, wrong)
    with pytest.raises(ValueError, match=r"type_name must be one of float32, .* got 'int8'"):
        gpu.Table([], "int8", torch.device("cpu"))


@needs_interpreter
def test_what_a_graph_captures_is_its_own(interpreted, monkeypatch):
    """While one is captured nothing runs: an upload of then is no upload for later, and one of before is kept."""
    walk = Walk(interpreted, [(5000,), (3, 40)], torch.float32, use_gc=True)
    monkeypatch.setattr(interpreted, "_capturing", lambda device: True)
    monkeypatch.setattr(interpreted, "_captured", [])
    walk.steps(1)
    assert walk.table._plan is walk.table._gradients is None
    assert interpreted._captured == []
    monkeypatch.setattr(interpreted, "_capturing", lambda device: False)
    walk.steps(1)
    plan, gradients = walk.table._plan, walk.table._gradients
    monkeypatch.setattr(interpreted, "_capturing", lambda device: True)
    assert walk.table._on_device()[1] is not gradients
    walk.steps(2)
    assert len(interpreted._captured) == 1
    assert interpreted._captured[0] is plan


def test_uploads_are_exact_and_new(interpreted, monkeypatch):
    rows, addresses = [[0.1, -1e300, 2.0**-1074], [1.0, 3.0, 1e-16]], np.array([0, 2**57 - 1, 2**53 + 1])
    for capturing in (False, True):
        monkeypatch.setattr(interpreted, "_capturing", lambda device, answer=capturing: answer)
        assert interpreted.upload(rows, torch.device("cpu")).tolist() == rows
        uploaded = interpreted._upload(addresses, torch.device("cpu"))
        assert uploaded.tolist() == addresses.tolist()
        assert uploaded.data_ptr() != addresses.ctypes.data


def test_unavailable_says_why(monkeypatch):
    monkeypatch.setenv("CC", "cc")
    gpu._compiler.cache_clear()
    assert gpu.unavailable() is None
    assert "not for 'mps'" in gpu.unavailable("mps")
    monkeypatch.setattr(gpu, "_missing", "No module named 'triton'")
    assert gpu.unavailable() == "Triton cannot be imported (No module named 'triton')"
    monkeypatch.setattr(gpu, "_missing", "")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    gpu._compiler.cache_clear()
    assert gpu.unavailable() == "Triton needs a C compiler, and there is none"
    gpu._compiler.cache_clear()


def test_without_triton_the_module_can_be_imported(monkeypatch):
    spec = importlib.util.spec_from_file_location("gpu_alone", gpu.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "triton", None)
    spec.loader.exec_module(module)
    assert module.unavailable().startswith("Triton cannot be imported")


TARGETS = {"A100": ("cuda", 80, 32), "H100": ("cuda", 90, 32), "MI300": ("hip", "gfx942", 64)}

INSTRUCTIONS = {
    "cuda": (r"\bld\.global\.(v4\.b32|v2\.b64)\b", r"\bst\.global\.(v4\.b32|v2\.b64)\b"),
    "hip": (r"\bglobal_load_dwordx4\b", r"\bglobal_store_dwordx4\b"),
}
"""Loads and stores of 128 bits."""


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles a kernel for a GPU that need not be there; returns what the GPU is to run."""
    compiler, targets = pytest.importorskip("triton.compiler"), pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))

    def compile(kernel, target, dtype, **constants):
        backend, arch, lanes = TARGETS[target]
        wide = "fp64" if dtype == torch.float64 else "fp32"
        constants |= dict(T=getattr(tl, str(dtype).removeprefix("torch.")), DOUBLE=dtype == torch.float64)
        monkeypatch.setattr(torch.version, "hip", "6.0" if backend == "hip" else None)
        constants |= dict(BLOCK=gpu._block(), COLUMNS=11)
        arguments = dict(places="*i64", gradients="*i64", owners="*i32", means=f"*{wide}")
        arguments |= dict(coefficients="*fp64", stride="i32") | dict.fromkeys(constants, "constexpr")
        source = compiler.ASTSource(kernel, arguments, {(kernel.arg_names.index(k),): v for k, v in constants.items()})
        options = dict(num_warps=gpu.WARPS)
        asm = triton.compile(source, target=targets.GPUTarget(backend, arch, lanes), options=options).asm
        return asm["ptx" if backend == "cuda" else "amdgcn"]

    return compile


def wide_accesses(asm, target):
    """How many loads and stores of 128 bits there are."""
    return tuple(len(re.findall(pattern, asm)) for pattern in INSTRUCTIONS[TARGETS[target][0]])


@pytest.mark.parametrize("everything", ["", "gradients", "steps"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_all_arrays_are_read_and_written_in_128_bits(compiled, target, dtype, everything):
    """8 elements a thread: so many accesses for each array."""
    flags = dict(AMSGRAD=bool(everything), LOOKAHEAD=bool(everything), CENTRALIZED=everything)
    asm = compiled(gpu._update, target, dtype, CHUNK=gpu.CHUNK, **flags)
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


@pytest.mark.parametrize("centralized", ["gradients", "steps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("target", TARGETS)
def test_means_read_128_bits(compiled, target, dtype, centralized):
    asm = compiled(gpu._take_means, target, dtype, AMSGRAD=True, CENTRALIZED=centralized)
    loads, _ = wide_accesses(asm, target)
    assert loads == 2 * 8 * dtype.itemsize // 16 + (
        3 * 8 * 4 // 16 if centralized == "steps" else 0
    )  # g, p; m, s, s_max


@pytest.mark.parametrize("target", ["A100", "H100"])
@pytest.mark.parametrize(("dtype", "name"), [(torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_halves_are_rounded_to_nearest(compiled, target, dtype, name):
    asm = compiled(gpu._update, target, dtype, CHUNK=gpu.CHUNK, AMSGRAD=False, LOOKAHEAD=False, CENTRALIZED="")
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


def test_nothing_that_varies_compiles_again(tmp_path, monkeypatch):
    """Launches as `Table` makes them, up to the point where they would run."""
    jit = pytest.importorskip("triton.runtime.jit")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    run, launches = jit.JITFunction.run, Counter()

    def warm_up(self, *args, grid, warmup, **options):
        launches[self.fn.__name__] += 1
        run(self, *args, grid=grid, warmup=True, **options)

    monkeypatch.setattr(jit.JITFunction, "run", warm_up)
    scalars = torch.zeros(40, len(SCALARS), dtype=torch.float64)
    for n in (1, 2, 16, 31):
        table = gpu.Table([[64 * n + 1] * 6 + [5000 * n, n]] * n, "float32", torch.device("cpu"))
        table.update(0, scalars[:1])
        table.update(0, scalars[1:2])
        table.update(0, scalars[3 : 3 + n])
        table.set_gradients([16] * n)
        table.update(0, scalars[:n])
    assert launches == {"_update": 16, "_take_means": 16}
    assert sorted(path.name for path in tmp_path.rglob("*.ptx")) == ["_take_means.ptx", "_update.ptx"]
