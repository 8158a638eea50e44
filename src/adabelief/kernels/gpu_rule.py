"""The rule as a GPU runs it, in Triton: one program for each chunk of an array, and one for each centralized row.

The element-wise part is that of cpu.c: arithmetic in the type of the state, correctly rounded roots and quotients, and
one rounding of half-precision parameters, to nearest even. gpu.py prepares what is read here, and launches it.
"""

# mypy: disallow-untyped-decorators=False

from __future__ import annotations

import triton
import triton.language as tl

from adabelief.kernels.layout import PLACES, SCALARS

# Compiled code reads no global that is not a constexpr: columns have their names here, and no number anywhere.
GAIN, SHRINK, L2 = (tl.constexpr(SCALARS.index(name)) for name in ("gain", "shrink", "l2"))
MEAN_GAIN, BETA2, BELIEF_GAIN = (tl.constexpr(SCALARS.index(name)) for name in ("mean_gain", "beta2", "belief_gain"))
EPS, STEP_SIZE = (tl.constexpr(SCALARS.index(name)) for name in ("eps", "step_size"))
ROOT_SCALE, OFFSET, BOUND = (tl.constexpr(SCALARS.index(name)) for name in ("root_scale", "offset", "bound"))
ALPHA, SYNCHRONIZE = (tl.constexpr(SCALARS.index(name)) for name in ("alpha", "synchronize"))
SKIP, STEP_NUMBER = (tl.constexpr(SCALARS.index(name)) for name in ("skip", "t"))

P, M, S, S_MAX, SLOW = (tl.constexpr(PLACES.index(name)) for name in ("p", "m", "s", "s_max", "slow"))
ELEMENTS, FIRST_CHUNK = (tl.constexpr(PLACES.index(name)) for name in ("elements", "first_chunk"))
FIRST_MEAN, ROW_LENGTH = (tl.constexpr(PLACES.index(name)) for name in ("first_mean", "row_length"))
WIDTH = tl.constexpr(len(PLACES))


@triton.jit
def _array(address: tl.tensor, start: tl.tensor, T: tl.constexpr, ALIGNED: tl.constexpr) -> tl.tensor:
    """A pointer to the element `start` of the array of type T at an address."""
    array = address.to(tl.pointer_type(T))
    if ALIGNED:  # the compiler cannot know it of a number that it finds in memory
        array = tl.multiple_of(array, 16)
    return array + start


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
    p: tl.tensor,
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    s_max: tl.tensor,
    slow: tl.tensor,
    start: tl.tensor,
    size: tl.tensor,
    scalars: tl.tuple,
    means: tl.tensor,
    rest: tl.tensor,
    length: tl.tensor,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    LOOKAHEAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """The rule for `size` elements of one array, at most a BLOCK, from `start` on, given its addresses and scalars.

    T is the type of p and g; state and arithmetic are DOUBLE or single. ALIGNED promises addresses divisible by 16 and
    a size divisible by 8: then every access is of 128 bits. Where gradients or steps are CENTRALIZED, means points to
    the mean of the row that `start` is in, of which `rest` elements are left; rows after it have `length` (0: the array
    is not centralized).
    """
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    p, g = _array(p, start, T, ALIGNED), _array(g, start, T, ALIGNED)
    m, s = _array(m, start, R, ALIGNED), _array(s, start, R, ALIGNED)
    s_max, slow = _array(s_max, start, R, ALIGNED), _array(slow, start, R, ALIGNED)
    if ALIGNED:
        size = size // 8 * 8  # changes nothing, but tells the compiler that no mask cuts an access of 128 bits
    (
        gain, shrink, l2, mean_gain, beta2, belief_gain, eps,
        step_size, root_scale, offset, bound, alpha, synchronize, _, _,
    ) = scalars  # fmt: skip
    i = tl.arange(0, BLOCK)
    inside = i < size
    p_i, g_i = tl.load(p + i, inside).to(R), tl.load(g + i, inside).to(R)
    m_i, s_i = tl.load(m + i, inside), tl.load(s + i, inside)
    if AMSGRAD:
        s_max_i = tl.load(s_max + i, inside)
    p_i *= shrink
    g_i *= gain
    g_i += tl.where(l2 != 0, l2 * p_i, 0.0)  # 0 · inf would be nan
    if CENTRALIZED != "":
        row = tl.where(i < rest, 0, (i - rest) // tl.maximum(length, 1) + 1)
        mean = tl.load(means + row, inside & (length > 0), other=0.0)
        if CENTRALIZED == "gradients":
            g_i -= mean
    m_i, s_i = _moments(g_i, m_i, s_i, mean_gain, beta2, belief_gain, eps)
    tl.store(m + i, m_i, inside)
    tl.store(s + i, s_i, inside)
    if AMSGRAD:
        s_i = _larger(s_max_i, s_i)
        tl.store(s_max + i, s_i, inside)
    step = _step(m_i, s_i, root_scale, offset, DOUBLE)
    if CENTRALIZED == "steps":
        step -= mean
    p_i -= step_size * _cut(step, bound)
    if LOOKAHEAD:  # noqa: SIM102 - one is known when the kernel is compiled, the other at every step
        if synchronize != 0:  # slow weights are not even read in the steps between
            slow_i = tl.load(slow + i, inside)
            p_i = slow_i + alpha * (p_i - slow_i)
            tl.store(slow + i, p_i, inside)
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
    LOOKAHEAD: tl.constexpr,
) -> None:
    """One chunk of the array that owners names."""
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place = places + array * WIDTH
    scalars = _scalars(coefficients, array, stride, values, tl.float64 if DOUBLE else tl.float32)
    if scalars[SKIP] == 0:
        p, g, m, s = tl.load(place + P), tl.load(gradients + array), tl.load(place + M), tl.load(place + S)
        s_max, slow = tl.load(place + S_MAX), tl.load(place + SLOW)
        start = (tl.program_id(0) - tl.load(place + FIRST_CHUNK)) * BLOCK
        size = tl.minimum(tl.load(place + ELEMENTS) - start, BLOCK).to(tl.int32)
        rest, length = size, size
        if CENTRALIZED != "":
            length = tl.load(place + ROW_LENGTH)
            row = start // tl.maximum(length, 1)
            means += tl.load(place + FIRST_MEAN) + row
            rest = tl.minimum((row + 1) * length - start, BLOCK).to(tl.int32)
            length = tl.minimum(length, BLOCK).to(tl.int32)  # no longer row ends twice in a chunk
        # Both ways are compiled, and each program takes one: a promise of alignment that is broken would be a fault.
        if ((p | g | m | s | s_max | slow) % 16 == 0) & (size % 8 == 0):
            _update_elements(
                p, g, m, s, s_max, slow, start, size, scalars, means, rest, length,
                T, DOUBLE, True, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK,
            )  # fmt: skip
        else:
            _update_elements(
                p, g, m, s, s_max, slow, start, size, scalars, means, rest, length,
                T, DOUBLE, False, AMSGRAD, LOOKAHEAD, CENTRALIZED, BLOCK,
            )  # fmt: skip


@triton.jit
def _add(x: tl.tensor, y: tl.tensor) -> tl.tensor:
    return x + y


@triton.jit
def _sum(
    p: tl.tensor,
    g: tl.tensor,
    m: tl.tensor,
    s: tl.tensor,
    s_max: tl.tensor,
    start: tl.tensor,
    length: tl.tensor,
    scalars: tl.tuple,
    T: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    AMSGRAD: tl.constexpr,
    CENTRALIZED: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """The sum of what is CENTRALIZED over the row that begins at `start`: in double, of terms in the state's type."""
    R: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    if ALIGNED:
        start, length = start // 8 * 8, length // 8 * 8  # as in _update_elements
    p, g = _array(p, start, T, ALIGNED), _array(g, start, T, ALIGNED)
    m, s, s_max = _array(m, start, R, ALIGNED), _array(s, start, R, ALIGNED), _array(s_max, start, R, ALIGNED)
    (
        gain, shrink, l2, mean_gain, beta2, belief_gain, eps, _, root_scale, offset, bound, _, _, _, _,
    ) = scalars  # fmt: skip
    total = tl.full([BLOCK], 0.0, tl.float64)
    for begin in range(0, length, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        inside = i < length
        x = tl.load(g + i, inside, other=0.0).to(R) * gain
        if l2 != 0:
            x += l2 * (tl.load(p + i, inside, other=0.0).to(R) * shrink)
        if CENTRALIZED == "steps":  # the moments once more, as `update` will store them: a step needs its mean first
            m_i, s_i = tl.load(m + i, inside, other=0.0), tl.load(s + i, inside, other=0.0)
            m_i, s_i = _moments(x, m_i, s_i, mean_gain, beta2, belief_gain, eps)
            if AMSGRAD:
                s_i = _larger(tl.load(s_max + i, inside, other=0.0), s_i)
            x = _cut(_step(m_i, s_i, root_scale, offset, DOUBLE), bound)
            x = tl.where(inside, x, 0.0)  # not 0 / 0 beyond the row
        total += x.to(tl.float64)
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
) -> None:
    """The mean that is subtracted from one row of the array that owners names.

    A launch of its own, before `update`: a row may be longer than a chunk, and there is no waiting between programs.
    """
    array = tl.load(owners + tl.program_id(0)).to(tl.int64)
    place = places + array * WIDTH
    scalars = _scalars(coefficients, array, stride, values, tl.float64 if DOUBLE else tl.float32)
    p, g, m, s = tl.load(place + P), tl.load(gradients + array), tl.load(place + M), tl.load(place + S)
    s_max, length = tl.load(place + S_MAX), tl.load(place + ROW_LENGTH)
    start = (tl.program_id(0) - tl.load(place + FIRST_MEAN)) * length
    if ((p | g | m | s | s_max) % 16 == 0) & (length % 8 == 0):
        total = _sum(p, g, m, s, s_max, start, length, scalars, T, DOUBLE, True, AMSGRAD, CENTRALIZED, BLOCK)
    else:
        total = _sum(p, g, m, s, s_max, start, length, scalars, T, DOUBLE, False, AMSGRAD, CENTRALIZED, BLOCK)
    tl.store(means + tl.program_id(0), (total / length.to(tl.float64)).to(means.dtype.element_ty))
