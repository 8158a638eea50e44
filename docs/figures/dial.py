"""Draws dial.png: how long AdaBelief's and Adam's steps are for noise of one size or another, by eps."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from adabelief.rule import reference_step

BETAS, STEPS, SAMPLES = (0.9, 0.999), 2000, 32
SIZES = np.logspace(-9, 1, 41)[:, None]
"""Standard deviations of the gradient."""


def noise() -> NDArray[np.float64]:
    """The gradients of all steps: the same for every line."""
    return np.random.default_rng(0).normal(size=(STEPS, len(SIZES), SAMPLES)) * SIZES


def belief(eps: float) -> NDArray[np.float64]:
    """AdaBelief's root mean square step in units of lr, by size, over the last quarter."""
    p, state, squares = np.zeros((len(SIZES), SAMPLES)), None, []
    for g in noise():
        old = p
        p, state = reference_step(p, g, state, lr=1.0, betas=BETAS, eps=eps)
        squares.append((p - old) ** 2)
    return np.sqrt(np.mean(squares[-STEPS // 4 :], axis=(0, 2)))


def adam(eps: float = 1e-8) -> NDArray[np.float64]:
    """Adam's."""
    m, v, squares = 0.0, 0.0, []
    for t, g in enumerate(noise(), 1):
        m, v = BETAS[0] * m + (1 - BETAS[0]) * g, BETAS[1] * v + (1 - BETAS[1]) * g**2
        squares.append((m / (1 - BETAS[0] ** t) / (np.sqrt(v / (1 - BETAS[1] ** t)) + eps)) ** 2)
    return np.sqrt(np.mean(squares[-STEPS // 4 :], axis=(0, 2)))


def main() -> None:
    """Writes dial.png beside this file."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for i, eps in enumerate((1e-8, 1e-10, 1e-12, 1e-14, 1e-16)):
        floor = np.sqrt(eps / (1 - BETAS[1]))
        axes.loglog(SIZES, belief(eps), color=plt.cm.viridis(i / 5), label=f"eps = {eps:.0e}, floor {floor:.1e}")
    axes.loglog(SIZES, adam(), "k:", label="Adam, eps = 1e-08")
    axes.set(xlabel="standard deviation of the gradient", ylabel="length of a step / lr", ylim=(1e-5, 1))
    axes.legend(fontsize="small")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=120)


if __name__ == "__main__":
    main()
