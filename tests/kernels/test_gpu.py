"""The numbers of the Triton kernel: on a GPU where there is one, or else in Triton's interpreter on CPU tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adabelief.kernels import cpu
from adabelief.kernels.layout import LOOKAHEAD
from tests.kernels.arrays import DTYPES, NEEDED, Arrays, needs_interpreter

pytest.importorskip(*NEEDED)

SHAPES = [(0,), (1,), (7,), (1023,), (1024,), (2049,), (8, 264)]

RULES = {
    "plain": {},
    "coupled": dict(weight_decay=0.1),
    "decoupled": dict(weight_decay=0.1, weight_decouple=True),
    "rectify": dict(rectify=True),
    "amsgrad": dict(amsgrad=True),
    "gain": dict(maximize=True, grad_scale=1024.0),
    "lookahead": dict(k=2, alpha=0.3),
    "bounded": dict(max_update=0.5, weight_decay=0.1),
    "all": dict(amsgrad=True, maximize=True, k=2, alpha=0.3, use_gc=True, weight_decay=0.1, rectify=True),
    "bounded steps": dict(max_update=0.5, use_gc=True, gc_loc=False, rectify=True),
    "steps": dict(amsgrad=True, grad_scale=2.0, k=2, use_gc=True, gc_loc=False, weight_decay=0.1, rectify=True),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_steps_are_those_of_the_reference(kernel, dtype, rule):
    Arrays(kernel, SHAPES, dtype, **RULES[rule]).steps()


@pytest.mark.parametrize("offset", [0, 1, 4])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_array_may_have_its_own_step_number(kernel, dtype, offset):
    """Some are due for Lookahead and others not, some rectified and others not; at odd addresses too."""
    arrays = Arrays(kernel, [(9,)] * 7 + [(1028,)], dtype, offset=offset, apart=True, k=3, rectify=True)
    arrays.steps(4)


@pytest.mark.parametrize("gc_loc", [True, False], ids=["gradients", "steps"])
@pytest.mark.parametrize(
    ("dtype", "weight_decay"), [*((dtype, 0.1) for dtype in DTYPES), (torch.float32, 0.0)], ids=str
)
def test_rows_are_centralized(kernel, dtype, weight_decay, gc_loc):
    """Short, odd and long rows, those that end within a chunk and those that fill several; beside an array of none."""
    shapes = [(5,), (60, 35), (9, 3), (3, 1), (16, 64), (3, 1025), (2, 250, 9), (1, 2056)]
    Arrays(kernel, shapes, dtype, use_gc=True, gc_loc=gc_loc, weight_decay=weight_decay, grad_scale=2.0).steps(2)


def test_a_skipped_array_stays_as_it_is(kernel):
    arrays = Arrays(kernel, [(5,), (1028,), (3, 40)], torch.float32, amsgrad=True, k=1, use_gc=True)
    before = [{name: x.clone() for name, x in one.items()} for one in arrays.each]
    arrays.each[1]["g"][3] = before[1]["g"][3] = float("inf")
    arrays.update(skip=1.0)
    for now, then in zip(arrays.each, before, strict=True):
        assert all(torch.equal(now[name], then[name]) for name in then)


def test_slow_weights_take_no_part_where_lookahead_is_not_due(kernel):
    """They are neither read nor written: no address is needed."""
    arrays = Arrays(kernel, [(1256,)], torch.float32)
    alone = arrays.each[0]["p"].clone(), *(arrays.each[0][name].clone() for name in "ms")
    arrays.table.update(0, arrays.coefficients())
    once = [arrays.each[0][name].clone() for name in "pms"]
    for name, x in zip("pms", alone, strict=True):
        arrays.each[0][name].copy_(x)
    arrays.table.update(LOOKAHEAD, arrays.coefficients())
    assert all(torch.equal(arrays.each[0][name], x) for name, x in zip("pms", once, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moved_gradients_are_followed(kernel, dtype):
    arrays = Arrays(kernel, SHAPES, dtype)
    arrays.steps(1)
    for offset in (1, 0):
        for x in arrays.each:
            x["g"].fill_(float("nan"))
            x["g"] = arrays.random(x["g"].shape, dtype, offset)
        arrays.table.set_gradients([x["g"].data_ptr() for x in arrays.each])
        arrays.steps(1)


@pytest.mark.parametrize("n", [1256, 1257])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_memory_beside_the_arrays_is_left_alone(kernel, dtype, n):
    arrays = Arrays(kernel, [(n,), (3, n)], dtype, amsgrad=True, k=1, use_gc=True)
    around = [torch.as_strided(x, (64 // x.itemsize,), (1,), x.storage_offset() + n) for x in arrays.each[0].values()]
    assert all(x.numel() and not x.any() for x in around)
    arrays.update()
    assert not any(x.any() for x in around)


@needs_interpreter
@pytest.mark.parametrize("odd", ["none", "p", "g", "m", "s", "s_max", "slow", "size"])
def test_wide_accesses_are_for_aligned_arrays(interpreted, monkeypatch, odd):
    """One address that 16 does not divide, and the whole array is stepped the other way: a GPU would fault."""
    arrays = Arrays(interpreted, [(1256 + (odd == "size"),)], torch.float32, amsgrad=True, k=1)
    if odd in arrays.each[0]:
        arrays.each[0][odd] = arrays.random((1256,), torch.float32, offset=1)
    step, choices = interpreted.gpu_rule._update_elements, []
    aligned = step.arg_names.index("ALIGNED")

    def watched(*arguments):
        choices.append(arguments[aligned])
        step(*arguments)

    monkeypatch.setattr(interpreted.gpu_rule, "_update_elements", watched)
    row = arrays.row(arrays.each[0])
    interpreted.Table([row], "float32", torch.device("cpu")).update(3, arrays.coefficients())
    assert choices == ([True, True] if odd == "none" else [True, False] if odd == "size" else [False, False])


@pytest.mark.parametrize("bound", [None, 0.5])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_stays_visible_and_alone(kernel, bad, bound):
    arrays = Arrays(kernel, [(67,)], torch.float32, max_update=bound)
    x = arrays.each[0]
    x["g"][33] = bad
    with np.errstate(invalid="ignore"):
        arrays.update()
    others = torch.arange(67) != 33
    assert not x["m"][33].isfinite()
    assert not x["s"][33].isfinite()
    assert x["p"][33].isnan()  # inf/inf, as in the reference
    assert all(x[name][others].isfinite().all() for name in "pms")


@pytest.mark.parametrize("infinite", ["p", "g"])
def test_no_decay_reads_nothing_into_infinite_numbers(kernel, infinite):
    """0 · inf would be nan: without coupled decay, p takes no part in the gradient."""
    arrays = Arrays(kernel, [(16, 9)], torch.float32, use_gc=True)
    arrays.each[0][infinite][3, 4] = float("inf")
    with np.errstate(invalid="ignore"):
        arrays.update()
    bad = ~torch.stack([arrays.each[0][name].isfinite() for name in "ms"]).all(0)
    assert bad.any(1).nonzero().flatten().tolist() == ([] if infinite == "p" else [3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_nan_wins_the_maximum(kernel, dtype):
    arrays = Arrays(kernel, [(5,)], dtype, amsgrad=True)
    x = arrays.each[0]
    x["g"][1] = x["s_max"][2] = float("nan")
    arrays.update()
    assert x["s_max"].isnan().tolist() == [False, True, True, False, False]


@pytest.mark.skipif(bool(cpu.unavailable()), reason=cpu.unavailable() or "-")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_c_kernel_agrees(kernel, interpreted, dtype, rule):
    """To the bit, but for means: they are sums in another order."""
    ours, theirs = (Arrays(module, SHAPES, dtype, **RULES[rule]) for module in (kernel, interpreted))
    ours.update()
    table = cpu.Table([theirs.row(x) for x in theirs.each], theirs.name())
    table.update(theirs.flags(), theirs.coefficients())
    eps = 8 * torch.finfo(dtype).eps if RULES[rule].get("use_gc") else 0.0
    for x, y in zip(ours.each, theirs.each, strict=True):
        for name in x:
            torch.testing.assert_close(x[name].cpu(), y[name], rtol=eps, atol=eps, msg=name)
