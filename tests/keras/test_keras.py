"""Every Keras backend, each in a process of its own, since Keras chooses its backend when it is imported."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BACKENDS = ("tensorflow", "jax", "torch")


def python(*arguments: str, backend: str) -> subprocess.CompletedProcess[str]:
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0", "CUDA_VISIBLE_DEVICES": ""}
    small = {"OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    env = os.environ | quiet | small | {"KERAS_BACKEND": backend}
    return subprocess.run([sys.executable, *arguments], env=env, cwd=ROOT, capture_output=True, text=True, timeout=6000)


def needs(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")


@pytest.mark.parametrize("backend", BACKENDS)
def test_backend(backend):
    needs("keras", backend)
    done = python(
        *("-m", "pytest", "tests/keras/checks", "--noconftest", "-q", "-p", "no:cacheprovider", "--color=no"),
        backend=backend,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_keras_names_the_extra():
    done = python("-c", "import sys; sys.modules['keras'] = None\nimport adabelief.keras", backend="torch")
    assert "ImportError: AdaBelief for Keras needs keras: pip install 'adabelief[keras]'" in done.stderr
