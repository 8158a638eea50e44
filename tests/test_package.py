"""Imports: lazy, silent, and clear where a framework is missing."""

from __future__ import annotations

import subprocess
import sys

import pytest

import adabelief
from tests import sanitized

FRAMEWORKS = ("torch", "keras", "jax", "tensorflow", "optax", "typer", "matplotlib")


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_import_loads_no_framework_and_prints_nothing():
    done = python(f"import adabelief, sys; print([m for m in {FRAMEWORKS} if m in sys.modules])")
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_rule_imports_nothing_of_the_package():
    code = "before = set(sys.modules); import adabelief.rule; print(sorted(set(sys.modules) - before))"
    done = python(f"import sys, numpy, math, adabelief; {code}")
    assert done.stdout == "['adabelief.rule']\n"


def test_missing_torch_names_the_extra():
    done = python("import sys; sys.modules['torch'] = None\nfrom adabelief import AdaBelief")
    assert "pip install 'adabelief[torch]'" in done.stderr


def test_names():
    assert set(adabelief.__all__) <= set(dir(adabelief))
    for name in adabelief.__all__:
        assert getattr(adabelief, name).__name__ == name
    with pytest.raises(AttributeError, match="AdaBeleif"):
        adabelief.AdaBeleif  # noqa: B018


def test_the_sanitizers_are_given_files_that_there_are():
    assert all((sanitized.ROOT / test).is_file() for test in sanitized.TESTS)
