"""What the transformations refuse, and what importing them brings along."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from adabelief.options import FLAGS

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")
ours = pytest.importorskip("adabelief.optax")
jnp = jax.numpy


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (ours.scale_by_belief, {"b1": 1.0}, r"b1 must be a number in \[0, 1\), got 1.0"),
        (ours.adabelief, {"learning_rate": -1.0}, "learning_rate must be a finite number, at least 0, got -1.0"),
        (ours.adabelief, {"learning_rate": float("nan")}, "learning_rate must be .* got nan"),
        (ours.adabelief, {"learning_rate": 1e-3, "b2": -0.1}, "b2 must be"),
        (ours.adabelief, {"learning_rate": 1e-3, "eps": float("inf")}, "eps must be"),
        (ours.adabeliefw, {"learning_rate": 1e-3, "weight_decay": -1}, "weight_decay must be .* got -1"),
        (ours.adabelief, {"learning_rate": 1e-3, "max_update": 0}, "max_update must be a number above 0, .* got 0"),
        (ours.ranger_adabelief, {"learning_rate": 1e-3, "max_update": "1"}, "max_update must be .* got '1'"),
        (ours.adabelief, {"learning_rate": 1e-3, "mu_dtype": jnp.int8}, "mu_dtype must be"),
        (ours.adabelief, {"learning_rate": 1e-3, "nu_dtype": "complex64"}, "nu_dtype must be .* got 'complex64'"),
        (ours.ranger_adabelief, {"learning_rate": 1e-3, "alpha": 1.5}, "alpha must be"),
        (ours.ranger_adabelief, {"learning_rate": 1e-3, "k": 0}, "k must be"),
        (ours.ranger_adabelief, {"learning_rate": 1e-3, "k": 2.5}, "k must be"),
        (ours.ranger_adabelief, {"learning_rate": 1e-3, "adaptive_from": 3}, "adaptive_from must be"),
        (ours.scale_by_belief, {"eps_before_adaptive": "no"}, "eps_before_adaptive must be True or False, got 'no'"),
        *(
            (make, {"learning_rate": 1e-3, name: "no"}, f"{name} must be True or False, got 'no'")
            for make in (ours.adabelief, ours.adabeliefw, ours.ranger_adabelief)
            for name in sorted(FLAGS & inspect.signature(make).parameters.keys())
        ),
    ],
)
def test_refuses(make, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(**arguments)


def test_refuses_integers_and_missing_parameters():
    with pytest.raises(TypeError, match=r"int32 and shape \(2,\).*optax.masked"):
        ours.adabelief(1e-3).init(jnp.arange(2))
    lookahead = ours.lookahead()
    with pytest.raises(ValueError, match="update\\(gradients, state, params\\)"):
        lookahead.update({"w": jnp.ones(2)}, lookahead.init({"w": jnp.zeros(2)}))


def test_warns_where_steps_never_become_adaptive():
    with pytest.warns(UserWarning, match="b2 = 0.5: rectified steps never become adaptive"):
        ours.adabelief(1e-3, b2=0.5, rectify=True)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_imports_no_other_framework():
    done = python(
        "import adabelief.optax, sys; print([m for m in ('torch', 'keras', 'tensorflow') if m in sys.modules])"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.parametrize("missing", ["jax", "optax"])
def test_missing_framework_names_the_extra(missing):
    done = python(f"import sys; sys.modules[{missing!r}] = None\nimport adabelief.optax")
    assert "ImportError: AdaBelief for JAX needs jax and optax: pip install 'adabelief[jax]'" in done.stderr
