"""The rule as a GPU runs it, in Triton: one program for each chunk of an array, and one for each centralized row.

The element-wise part is that of cpu.c: arithmetic in the type of the state, correctly rounded roots and quotients, and
one rounding of half-precision parameters, to nearest even. How columns are stored that are in codes is in gpu_codes.py,
and their chunks are of whole blocks. gpu.py prepares what is read here, and launches it.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from adabelief.kernels.gpu_codes import dither, load, load_weights, store, store_weights
from adabelief.kernels.gpu_places import (
    ELEMENTS,
    FIRST,
    FIRST_CHUNK,
    FIRST_MEAN,
    M_EXPONENTS,
    MEAN_LENGTH,
    ROW_LENGTH,
    S_EXPONENTS,
    S_MAX_EXPONENTS,
    SHARED,
    WIDTH,
    addresses,
    blocks_at,
    blocks_of,
    exponents_at,
    odd,
    pointers,
    rows_at,
)
from adabelief.kernels.layout import SCALARS

# Compiled code reads no global that is not a constexpr: columns have their names here, and no number anywhere.
GAIN, SHRINK, L2 = (tl.constexpr(SCALARS.index(name)) for name in ("gain", "shrink", "l2"))
MEAN_GAIN, BETA2, BELIEF_GAIN = (tl.constexpr(SCALARS.index(name)) for name in ("mean_gain", "beta2", "belief_gain"))
EPS, STEP_SIZE = (tl.constexpr(SCALARS.index(name)) for name in ("eps", "step_size"))
ROOT_SCALE, OFFSET, BOUND = (tl.constexpr(SCALARS.index(name)) for name in ("root_scale", "offset", "bound"))
ALPHA, SYNCHRONIZE = (tl.constexpr(SCALARS.index(name)) for name in ("alpha", "synchronize"))
SKIP, STEP_NUMBER = (tl.constexpr(SCALARS.index(name)) for name in ("skip", "t"))


@triton.jit
def _scalars(
    coefficients: tl.tensor, array: tl.tensor, stride: tl.tensor, values: tl.tuple, R: tl.constexpr
) -> tl.tuple:
    """The numbers of an array's step in the order of SCALARS: `values`, or else the array's row of coefficients."""
    if values is None:
        c = coefficients + array * stride
        gain, shrink, l2 = tl.load(c + GAIN).to(R), tl.load(c + SHRINK).to(R), tl.load(c + L2).to(R)
        mean_gain, beta2 = tl.load(c + MEAN_GAIN).to(R), tl.load(c + BETA2).to(R)
        belief_gain, eps = tl.load(c + BELIEF_GAIN).to(R), tl.load(c + EPS).to(R)
        step_size, root_scale = tl.load(c + STEP_SIZE).to(R), tl.load(c + ROOT_SCALE).to(R)
        offset, bound, alpha = tl.load(c + OFFSET).to(R), tl.load(c + BOUND).to(R), tl.load(c + ALPHA).to(R)
        synchronize, skip = tl.load(c + SYNCHRONIZE).to(R), tl.load(c + SKIP).to(R)
        t = tl.load(c + STEP_NUMBER).to(R)
        return (
            gain, shrink, l2, mean_gain, beta2, belief_gain, eps,
            step_size, root_scale, offset, bound, alpha, synchronize, skip, t,
        )  # fmt: skip
    else:
        return values


@triton.jit
def _moments(
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    mean_gain: tl.tensor,
    beta2: tl.tensor,
    belief_gain: tl.tensor,
    eps: tl.tensor,
) -> tuple[tl.tensor, tl.tensor]:
    d = g - m
    return m + mean_gain * d, beta2 * s + belief_gain * (d * d) + eps


@triton.jit
def _larger(s_max: tl.tensor, s: tl.tensor) -> tl.tensor:
    return tl.maximum(s_max, s, propagate_nan=tl.PropagateNan.ALL)  # as torch.maximum: what is broken stays visible


@triton.jit
def _cut(step: tl.tensor, bound: tl.tensor) -> tl.tensor:
    return tl.where(step > bound, bound, tl.where(step < -bound, -bound, step))  # nan stays nan


@triton.jit
def _step(m: tl.tensor, s: tl.tensor, root_scale: tl.tensor, offset: tl.tensor, DOUBLE: tl.constexpr) -> tl.tensor:
    if DOUBLE:  # there the plain operators are the correctly rounded ones
        return m / (tl.sqrt(s) * root_scale + offset)
    else:  # the plain ones are approximations in float32
        return tl.div_rn(m, tl.sqrt_rn(s) * root_scale + offset)


@triton.jit
def _update_elements(
    arrays: tl.tuple,
    place: tl.tensor,
    chunk: tl.tensor,
    scalars: tl.tuple,
    means: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    M_BITS: tl.constexpr,
    S_BITS: tl.constexpr,
    P_BITS: tl.constexpr,
) -> None:
    """The rule for a chunk of one array, at most a BLOCK of elements, given its place, addresses and scalars.

    T is the type of p and g; arithmetic is DOUBLE or single, and so is what of the state has 32 bits. P_BITS is 0 for
    weights that are rounded to the nearest. ALIGNED promises addresses divisible by 16 and sizes divisible by 8: then
    every access is of all that a thread has of an array, up to 128 bits. Where gradients or steps are CENTRALIZED,
    means has the mean of each row.
    """
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    if M_BITS == 8 or S_BITS == 8:
        first_row = 0
        start, i, inside, block, there, row = blocks_at(place, chunk, ALIGNED, BLOCK)
    else:
        start = chunk * BLOCK
        size = tl.minimum(tl.load(place + ELEMENTS) - start, BLOCK).to(tl.int32)
        if CENTRALIZED != "":
            first_row, row = rows_at(place, start, BLOCK)
        if ALIGNED:
            size = size // 8 * 8  # changes nothing, but tells the compiler that no mask cuts an access of 128 bits
        i = tl.arange(0, BLOCK)
        inside = i < size
        block, there = i, inside
    p, g, m, s, s_max, slow, rest = pointers(arrays, start, T, DOUBLE, ALIGNED, M_BITS, S_BITS, P_BITS)
    m_exponents, s_exponents = exponents_at(place, M_EXPONENTS), exponents_at(place, S_EXPONENTS)
    s_max_exponents, first = exponents_at(place, S_MAX_EXPONENTS), tl.load(place + FIRST)
    (
        gain, shrink, l2, mean_gain, beta2, belief_gain, eps,
        step_size, root_scale, offset, bound, alpha, synchronize, _, t,
    ) = scalars  # fmt: skip
    at = i, inside, block, there
    p_i, g_i = load_weights(p, rest, i, inside, P_BITS).to(R), tl.load(g + i, inside).to(R)
    m_i, s_i = load(m, m_exponents, at, False, M_BITS), load(s, s_exponents, at, True, S_BITS)
    if AMSGRAD:
        s_max_i = load(s_max, s_max_exponents, at, True, S_BITS)
    p_i *= shrink
    g_i *= gain
    g_i += tl.where(l2 != 0, l2 * p_i, 0.0)  # 0 · inf would be nan
    if CENTRALIZED != "":
        means += tl.load(place + FIRST_MEAN) + first_row
        mean = tl.load(means + row, there & (tl.load(place + MEAN_LENGTH) > 0), other=0.0)
        if M_BITS == 8 or S_BITS == 8:
            mean = mean[:, None]
        if CENTRALIZED == "gradients":
            g_i -= mean
    m_i, s_i = _moments(g_i, m_i, s_i, mean_gain, beta2, belief_gain, eps)
    r = dither(first + start, t, i) if M_BITS < 32 or S_BITS < 32 or P_BITS > 0 else i
    store(m, m_exponents, m_i, at, r, False, M_BITS)
    store(s, s_exponents, s_i, at, r, True, S_BITS)
    if AMSGRAD:
        s_i = _larger(s_max_i, s_i)
        store(s_max, s_max_exponents, s_i, at, r, True, S_BITS)
    step = _step(m_i, s_i, root_scale, offset, DOUBLE)
    if CENTRALIZED == "steps":
        step -= mean
    p_i -= step_size * _cut(step, bound)
    if LOOKAHEAD:  # noqa: SIM102 - one is known when the kernel is compiled, the other at every step
        if synchronize != 0:  # slow weights are not even read in the steps between
            slow_i = tl.load(slow + i, inside)
            p_i = slow_i + alpha * (p_i - slow_i)
            tl.store(slow + i, p_i, inside)
    if P_BITS > 0:
        store_weights(p, rest, p_i, i, inside, r, P_BITS)
    else:
        tl.store(p + i, p_i.to(T), inside)


# Neither is a stride of 0 compiled apart from others, nor coefficients at an odd address (a row of a larger tensor).
@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["coefficients"])
def update(
    places: tl.tensor,
    gradients: tl.tensor,
    owners: tl.tensor,
    means: tl.tensor,
    coefficients: tl.tensor,
    stride: tl.tensor,
    values: tl.tuple,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    M_BITS: tl.constexpr,
    S_BITS: tl.constexpr,
    P_BITS: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
) -> None:
    """One chunk of the array that owners names."""
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place = places + array * WIDTH
    scalars = _scalars(coefficients, array, stride, values, tl.float64 if DOUBLE else tl.float32)
    if scalars[SKIP] == 0:
        arrays = addresses(place, gradients + array)
        chunk = tl.program_id(0) - tl.load(place + FIRST_CHUNK)
        if M_BITS == 8 or S_BITS == 8:
            length = tl.load(place + ROW_LENGTH)
            whole = (length % 8 == 0) | ((chunk + 1) * BLOCK <= length)
        else:
            whole = tl.minimum(tl.load(place + ELEMENTS) - chunk * BLOCK, BLOCK).to(tl.int32) % 8 == 0
        # Both ways are compiled, and each program takes one: a promise of alignment that is broken would be a fault.
        if (odd(arrays, P_BITS) == 0) & whole:
            _update_elements(
                arrays, place, chunk, scalars, means,
                T, DOUBLE, True, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK, M_BITS, S_BITS, P_BITS,
            )  # fmt: skip
        else:
            _update_elements(
                arrays, place, chunk, scalars, means,
                T, DOUBLE, False, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK, M_BITS, S_BITS, P_BITS,
            )  # fmt: skip


@triton.jit
def _add(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return x + y


@triton.jit
def _sum(
    arrays: tl.tuple,
    place: tl.tensor,
    row: tl.tensor,
    length: tl.tensor,
    scalars: tl.tuple,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    M_BITS: tl.constexpr,
    S_BITS: tl.constexpr,
    P_BITS: tl.constexpr,
) -> tl.tensor:
    """The sum of what is CENTRALIZED over a row of some length: in double, of terms in the type of the arithmetic."""
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    start = row * length
    if ALIGNED:
        start, length = start // 8 * 8, length // 8 * 8  # as in _update_elements
    p, g, m, s, s_max, _, rest = pointers(arrays, start, T, DOUBLE, ALIGNED, M_BITS, S_BITS, P_BITS)
    first_block = row * blocks_of(length)
    (
        gain, shrink, l2, mean_gain, beta2, belief_gain, eps, _, root_scale, offset, bound, _, _, _, _,
    ) = scalars  # fmt: skip
    total = tl.full([BLOCK], 0.0, tl.float64)
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < length
        x = tl.load(g + i, inside).to(R) * gain
        if l2 != 0:
            x += l2 * (load_weights(p, rest, i, inside, P_BITS).to(R) * shrink)
        if CENTRALIZED == "steps":  # the moments once more, as `update` will store them: a step needs its mean first
            at = i, inside, first_block + i // SHARED, inside
            m_i = load(m, exponents_at(place, M_EXPONENTS), at, False, M_BITS)
            s_i = load(s, exponents_at(place, S_EXPONENTS), at, True, S_BITS)
            m_i, s_i = _moments(x, m_i, s_i, mean_gain, beta2, belief_gain, eps)
            if AMSGRAD:
                s_i = _larger(load(s_max, exponents_at(place, S_MAX_EXPONENTS), at, True, S_BITS), s_i)
            x = _cut(_step(m_i, s_i, root_scale, offset, DOUBLE), bound)
        total += tl.where(inside, x, 0.0).to(tl.float64)  # not 0 / 0 beyond the row
    return tl.reduce(total, 0, _add)  # tl.sum would not be interpreted where these functions are


@triton.jit(do_not_specialize=["stride"], do_not_specialize_on_alignment=["coefficients"])
def take_means(
    places: tl.tensor,
    gradients: tl.tensor,
    owners: tl.tensor,
    means: tl.tensor,
    coefficients: tl.tensor,
    stride: tl.tensor,
    values: tl.tuple,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
    M_BITS: tl.constexpr,
    S_BITS: tl.constexpr,
    P_BITS: tl.constexpr,
) -> None:
    """The mean that is subtracted from one row of the array that owners names.

    A launch of its own, before `update`: a row may be longer than a chunk, and there is no waiting between programs.
    """
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place = places + array * WIDTH
    scalars = _scalars(coefficients, array, stride, values, tl.float64 if DOUBLE else tl.float32)
    arrays = addresses(place, gradients + array)
    length, row = tl.load(place + MEAN_LENGTH), tl.program_id(0) - tl.load(place + FIRST_MEAN)
    if (odd(arrays, P_BITS) == 0) & (length % 8 == 0):
        total = _sum(
            arrays, place, row, length, scalars,
            T, DOUBLE, True, AMSGRAD, CENTRALIZED, BLOCK, M_BITS, S_BITS, P_BITS,
        )  # fmt: skip
    else:
        total = _sum(
            arrays, place, row, length, scalars,
            T, DOUBLE, False, AMSGRAD, CENTRALIZED, BLOCK, M_BITS, S_BITS, P_BITS,
        )  # fmt: skip
    tl.store(means + tl.program_id(0), (total / length.to(tl.float64)).to(means.dtype.element_ty))
