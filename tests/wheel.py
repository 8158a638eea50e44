"""Asks an installed wheel for steps of its C kernel and holds them to the reference; needs nothing but NumPy.

python tests/wheel.py, in an environment that has the wheel, on whatever platform it is for.
"""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import numpy as np

import adabelief
from adabelief.kernels import cpu
from adabelief.kernels.layout import SCALARS, row
from adabelief.kernels.library import library
from adabelief.rule import coefficients, reference_step


def main() -> None:
    package = Path(adabelief.__file__).parent
    assert importlib.metadata.version("adabelief") == adabelief.__version__
    assert library(str(package / "torch" / "proof.py"), "_proof"), "the library of torch/ is missing"
    assert not cpu.unavailable(), cpu.unavailable()
    p, g = np.linspace(-1, 1, 100_003, dtype=np.float32), np.linspace(-2, 2, 100_003, dtype=np.float32)
    m, s = np.zeros_like(p), np.zeros_like(p)
    addresses = {name: array.ctypes.data for name, array in {"p": p, "g": g, "m": m, "s": s}.items()}
    table = cpu.Table([row(**addresses, elements=p.size)], "float32")
    expected, state = p.astype(float), None
    for t in (1, 2, 3):
        scalars = dict.fromkeys(SCALARS, 0.0) | {"gain": 1.0, "t": t} | coefficients(t)._asdict()
        table.update(0, [scalars[name] for name in SCALARS])
        expected, state = reference_step(expected, g, state)
    np.testing.assert_allclose(p, expected, rtol=1e-6, atol=1e-8)
    print(f"adabelief {adabelief.__version__}: steps of the C kernel, {cpu.instruction_set()}, {cpu.threads()} threads")


if __name__ == "__main__":
    main()
