"""The codes of 8 and 16 bits in the kernels, C's and Triton's: those of NumPy, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from adabelief import codes
from adabelief.kernels import cpu, gpu
from adabelief.kernels.layout import (
    AMSGRAD,
    EXPONENTS,
    M_CODES,
    M_HALF,
    P_24,
    P_32,
    P_DITHERED,
    S_CODES,
    S_HALF,
    SCALARS,
    row,
)
from tests.kernels.arrays import DEVICE, interpreted, kernel  # noqa: F401 - fixtures
from tests.test_codes import numbers

KEEPS = dict(gain=1, shrink=1, beta2=1, offset=1, bound=np.inf)
"""A step that changes nothing: what is stored is read and written."""

TAKES = KEEPS | dict(gain=1.1, mean_gain=1, beta2=0, belief_gain=1)
"""A step from zeros that gives m the scaled gradient, and s its square."""

SHRINKS = KEEPS | dict(shrink=1.1)
"""A step that scales p."""

SHAPES = [(40, 300), (5000,), (40, 256), (41, 72)]
"""Rows that end in short blocks, aligned and not; a chunk is more than a block, or an array, has."""


@pytest.fixture(params=["C", "Triton"])
def table(request):
    """Makes the table of a kernel, of arrays on the device that is also given."""
    if request.param == "C":
        if cpu.unavailable():
            pytest.skip(cpu.unavailable())
        return (lambda rows, name: cpu.Table(rows, name)), torch.device("cpu")
    module = request.getfixturevalue("kernel")
    device = torch.device(DEVICE if module is gpu else "cpu")
    return (lambda rows, name: module.Table(rows, name, device)), device


def step(table, flags, arrays, length, scalars, t, first=0, rows_of_scalars=False):
    """Steps arrays by their names, NumPy's, and returns them as they are then."""
    make, device = table
    memory = {name: torch.from_numpy(x.copy()).to(device) for name, x in arrays.items()}
    columns = {name: x.data_ptr() for name, x in memory.items()}
    name = "bfloat16" if arrays["p"].dtype == np.int16 else "float32"
    its = make([row(**columns, elements=arrays["p"].size, row_length=length, first=first)], name)
    values = [float((scalars | {"t": t}).get(name, 0)) for name in SCALARS]
    with np.errstate(all="ignore"):  # the interpreter's
        its.update(flags, torch.tensor([values], dtype=torch.float64, device=device) if rows_of_scalars else values)
    return {name: x.cpu().numpy() for name, x in memory.items()}


def zeros(shape, dtype=np.float32):
    x = np.zeros(shape, dtype)
    return {"p": x.copy(), "g": x.copy(), "m": np.zeros(shape, np.float32), "s": np.zeros(shape, np.float32)}


def rows_of(shape):
    """(rows, elements of a row) of an array's shape."""
    return shape if len(shape) > 1 else (1, *shape)


@pytest.mark.parametrize("exponents", [[0, 1, 15, 16, 17], [127, 200, 253, 254, 255]], ids=str)
@pytest.mark.parametrize("columns", ["m", ("s", "s_max")], ids=str)
def test_every_code_is_kept(table, columns, exponents):
    every = np.tile(np.arange(256, dtype=np.uint8), (len(exponents), 1))
    beside = np.array(exponents, dtype=np.uint8)[:, None]
    arrays = zeros(every.shape)
    for name, its in EXPONENTS.items():
        used = name in columns
        arrays |= {name: every.copy() if used else every * 0, its: beside.copy() if used else beside * 0}
    found = step(table, M_CODES | S_CODES | AMSGRAD, arrays, 256, KEEPS, t=3)
    for name in columns:
        x = codes.decode8(every, beside, name) + np.float32(0)  # which leaves no -0
        expected, its_exponents = codes.encode8(x, name, codes.dither(name, *every.shape, 0, 3))
        assert np.array_equal(found[name], expected)
        assert np.array_equal(found[EXPONENTS[name]], its_exponents)


@pytest.mark.parametrize(("t", "first"), [(1, 0), (2**24 - 1, 2**33 + 768)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bits", [(8, 8), (16, 16), (16, 8), (8, 32)], ids=str)
def test_state_is_rounded_as_numpy_rounds_it(table, bits, shape, t, first):
    """Numbers of every size, subnormals, the largest, and what is none."""
    flags = {8: M_CODES, 16: M_HALF}[bits[0]] | {8: S_CODES, 16: S_HALF, 32: 0}[bits[1]]
    length = rows_of(shape)[1]
    g = numbers(48, 300, False).ravel()[: int(np.prod(shape))].reshape(rows_of(shape)).copy()
    g.ravel()[2000:2200] *= np.float32(2.0**-60)  # whose squares are subnormal
    arrays = zeros(g.shape) | {"g": g}
    for name, its in zip("ms", bits, strict=True):
        if its == 8:
            arrays |= {name: np.zeros(g.shape, np.uint8)}
            arrays |= {EXPONENTS[name]: np.zeros((len(g), codes.blocks_of(length)), np.uint8)}
        elif its == 16:
            arrays |= {name: np.zeros(g.shape, np.int16)}
    found = step(table, flags, arrays, length, TAKES, t, first, rows_of_scalars=t > 1 and table[1].type != "cpu")
    with np.errstate(over="ignore", invalid="ignore"):
        expected = {"m": g * np.float32(TAKES["gain"])}
        expected["s"] = expected["m"] * expected["m"]
    for name, its in zip("ms", bits, strict=True):
        x, r = expected[name], codes.dither(name, *g.shape, first, t)
        if its == 8:
            its_codes, exponents = codes.encode8(x, name, r)
            assert np.array_equal(found[name], its_codes)
            assert np.array_equal(found[EXPONENTS[name]], exponents)
        elif its == 16:
            halves = codes.decode16(codes.encode16(x, name, r))
            assert np.array_equal(codes.decode16(found[name]), halves, equal_nan=True)
        else:
            assert np.array_equal(found[name], x, equal_nan=True)


@pytest.mark.parametrize(("t", "first"), [(1, 0), (2**24 - 1, 2**33 + 768)])
@pytest.mark.parametrize("codes_too", [False, True])
@pytest.mark.parametrize(("bits", "flag", "kind"), [(16, P_DITHERED, None), (24, P_24, np.int8), (32, P_32, np.int16)])
def test_weights_are_rounded_as_numpy_rounds_them(table, bits, flag, kind, codes_too, t, first):
    shape = (40, 300)
    p = (numbers(*shape, False).view(np.int32) >> 16).astype(np.int16)
    arrays = zeros(shape, np.int16) | {"p": p}
    if kind:
        arrays |= {"rest": np.zeros(shape, kind)}
    if codes_too:
        arrays |= {name: np.zeros(shape, np.uint8) for name in "ms"}
        arrays |= {EXPONENTS[name]: np.zeros((40, 2), np.uint8) for name in "ms"}
    found = step(table, flag | (M_CODES | S_CODES if codes_too else 0), arrays, 300, SHRINKS, t, first)
    with np.errstate(over="ignore", invalid="ignore"):
        x = codes.decode16(p) * np.float32(SHRINKS["shrink"])
    r = codes.dither("p", *shape, first, t)
    if bits == 16:
        expected = codes.decode16(codes.encode16(x, "p", r))
    else:
        halves, rest = codes.split(x, bits, r)
        expected = codes.decode16(halves)
        assert np.array_equal(found["rest"], rest)
    assert np.array_equal(codes.decode16(found["p"]), expected, equal_nan=True)
    again = step(table, flag, found | zeros(shape) | {n: found[n] for n in ("p", "rest") if n in found}, 300, KEEPS, t)
    if bits > 16:  # read and written, weights stay what they are
        assert np.array_equal(again["rest"], found["rest"])
    finite = np.isfinite(expected)
    assert np.array_equal(again["p"][finite], found["p"][finite])
