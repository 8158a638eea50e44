"""How long a step of every front-end takes, beside the AdamW that its framework brings along.

    python benchmarks/front_ends.py [FRONT_END ...] [--seconds 20] [--threads N] [--out DIR]

Steps run as users run them: compiled with donated parameters and state in JAX, what `model.fit` does in Keras. Each
front-end has a process of its own, in which all arms step the same shapes in a new order each round; what is printed
are medians, and medians of the ratios within a round. How far to trust them, the ratio of `AdamW again` shows.
Front-ends whose framework is not installed are skipped.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from step_time import Shapes, machine, ratio, resnet18

CASES: dict[str, Shapes] = {"20x(500,1000)": [(500, 1000)] * 20, "resnet18-11M": resnet18()}

Steps = dict[str, Callable[[], object]]

Arrays = list[Any]
"""Float32 arrays of NumPy: what the parameters start from, and the gradients."""


def jax_steps(arrays: Arrays) -> Steps:
    """A step of every optimizer of optax and of ours, compiled, with donated parameters and state."""
    import jax
    import optax

    from adabelief.optax import adabelief, adabeliefw, ranger_adabelief

    def running(optimizer: Any) -> Callable[[], object]:
        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, gradients: Any) -> Any:
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        params = jax.tree.map(jax.numpy.array, arrays)
        return _carried(step, (params, optimizer.init(params)), gradients)

    gradients = jax.tree.map(jax.numpy.array, arrays)
    optimizers = {
        "AdamW": optax.adamw(1e-3),
        "AdamW again": optax.adamw(1e-3),
        "optax's AdaBelief": optax.adabelief(1e-3),
        "AdaBelief": adabelief(1e-3),
        "AdaBeliefW": adabeliefw(1e-3),
        "AdaBelief, rectify": adabelief(1e-3, rectify=True),
        "RangerAdaBelief": ranger_adabelief(1e-3),
    }
    return {name: running(optimizer) for name, optimizer in optimizers.items()}


def keras_steps(arrays: Arrays, jit_compile: bool = False) -> Steps:
    """What `model.fit` runs for every optimizer of Keras's and ours, on the backend that the environment names.

    Args:
        arrays: The parameters and the gradients.
        jit_compile: On TensorFlow, through XLA, as models are compiled unless one of their layers forbids it.

    Returns:
        The steps.
    """
    import keras

    from adabelief.keras import AdaBelief, AdaBeliefW, RangerAdaBelief

    backend = keras.backend.backend()

    def running(optimizer: Any) -> Callable[[], object]:
        variables = [keras.Variable(x.copy()) for x in arrays]
        optimizer.build(variables)
        if backend == "torch":
            return lambda: optimizer.apply(gradients, variables)
        if backend == "tensorflow":
            import tensorflow as tf

            pairs = list(zip(gradients, variables, strict=True))
            return tf.function(lambda: optimizer.apply_gradients(pairs), jit_compile=jit_compile)
        import jax

        @partial(jax.jit, donate_argnums=(0, 1))
        def step(params: Any, state: Any, gradients: Any) -> Any:
            return optimizer.stateless_apply(state, gradients, params)

        params, state = ([x.value for x in variables] for variables in (variables, optimizer.variables))
        return _carried(step, (params, state), gradients)

    gradients = [keras.ops.convert_to_tensor(x) for x in arrays]
    optimizers = {
        "AdamW": keras.optimizers.AdamW(),
        "AdamW again": keras.optimizers.AdamW(),
        "AdaBelief": AdaBelief(),
        "AdaBeliefW": AdaBeliefW(),
        "AdaBelief, rectify": AdaBelief(rectify=True),
        "RangerAdaBelief": RangerAdaBelief(),
    }
    return {name: running(optimizer) for name, optimizer in optimizers.items()}


def torch_steps(arrays: Arrays) -> Steps:
    """A step of torch's fastest AdamW and of ours."""
    import torch

    from adabelief import AdaBelief, AdaBeliefW, RangerAdaBelief

    params = [torch.nn.Parameter(torch.tensor(x)) for x in arrays]
    for p, gradient in zip(params, arrays, strict=True):
        p.grad = torch.from_numpy(gradient)
    optimizers = {
        "AdamW": torch.optim.AdamW(params, fused=True),
        "AdamW again": torch.optim.AdamW(params, fused=True),
        "AdaBelief": AdaBelief(params),
        "AdaBeliefW": AdaBeliefW(params),
        "AdaBelief, rectify": AdaBelief(params, rectify=True),
        "RangerAdaBelief": RangerAdaBelief(params),
    }
    return {name: optimizer.step for name, optimizer in optimizers.items()}


FRONT_ENDS: dict[str, tuple[tuple[str, ...], Callable[[Arrays], Steps]]] = {
    "optax": (("jax", "optax"), jax_steps),
    "keras-jax": (("keras", "jax"), keras_steps),
    "keras-tensorflow": (("keras", "tensorflow"), keras_steps),
    "keras-tensorflow-xla": (("keras", "tensorflow"), partial(keras_steps, jit_compile=True)),
    "keras-torch": (("keras", "torch"), keras_steps),
    "torch": (("torch",), torch_steps),
}
"""The packages that each one needs, and its steps."""


def _carried(step: Callable[..., Any], carry: Any, gradients: Any) -> Callable[[], object]:
    """Calls of a step of JAX, each with the parameters and the state that the last one returned."""
    import jax

    def run() -> None:
        nonlocal carry
        carry = jax.block_until_ready(step(*carry, gradients))

    return run


def measure(steps: Steps, seconds: float) -> dict[str, list[float]]:
    """Seconds of every arm's step, round after round, after two rounds of warm-up; at least five rounds."""
    for step in [*steps.values()] * 2:
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    order, end = random.Random(0), time.perf_counter() + seconds
    while time.perf_counter() < end or len(times["AdamW"]) < 5:
        for name in order.sample(list(steps), len(steps)):  # what ran before decides what is in the cache
            start = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - start)
    return times


def measured_apart(front_end: str, case: str, seconds: float) -> dict[str, list[float]]:
    """`measure` in a fresh process, where the front-end's framework is the only one that computes."""
    backend = front_end.split("-")[1] if front_end.startswith("keras") else ""
    quiet = {
        "KERAS_BACKEND": backend,
        "JAX_PLATFORMS": "cpu",
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    command = [sys.executable, __file__, front_end, "--seconds", str(seconds), "--case", case]
    done = subprocess.run(command, env=os.environ | quiet, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures and prints; see the first lines of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "front_ends", nargs="*", metavar="FRONT_END", help=f"of {', '.join(FRONT_ENDS)}; all by default"
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case, at least five rounds (default 20)")
    parser.add_argument(
        "--threads", type=int, help="that many of the cores, for every framework; on Linux (default all)"
    )
    parser.add_argument("--out", type=Path, help="folder for front_ends.md")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    unknown = set(arguments.front_ends) - set(FRONT_ENDS)
    if unknown:
        parser.error(f"FRONT_END: there is no {', '.join(unknown)}; there are {', '.join(FRONT_ENDS)}")
    if arguments.case:
        _, steps = FRONT_ENDS[arguments.front_ends[0]]
        rng = np.random.default_rng(0)
        arrays = [rng.standard_normal(shape, np.float32) for shape in CASES[arguments.case]]
        print(json.dumps(measure(steps(arrays), arguments.seconds)))
        return
    if arguments.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.threads])

    found = metadata.packages_distributions()  # TensorFlow has several distributions
    packages = [found[name][0] for name in ("jax", "optax", "keras", "tensorflow") if name in found]
    versions = "".join(f", {name} {metadata.version(name)}" for name in packages)
    report = [f"`{' '.join(['python', 'benchmarks/front_ends.py', *sys.argv[1:]])}` on {machine()}{versions}."]
    print(report[0], flush=True)
    for front_end in arguments.front_ends or FRONT_ENDS:
        needed, _ = FRONT_ENDS[front_end]
        missing = [name for name in needed if not find_spec(name)]
        for case in CASES if not missing else []:
            times = measured_apart(front_end, case, arguments.seconds)
            lines = ["", f"### {front_end}, {case}: {len(times['AdamW'])} rounds", ""]
            lines += ["| step | ms | x AdamW |", "| :-- | --: | --: |"]
            for name, seconds in times.items():
                lines.append(f"| {name} | {median(seconds) * 1e3:.2f} | {ratio(times, name, 'AdamW'):.2f} |")
            report += lines
            print("\n".join(lines), flush=True)
        if missing:
            report += ["", f"{front_end}: skipped, {' and '.join(missing)} not installed."]
            print(report[-1], flush=True)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "front_ends.md").write_text("\n".join([*report, ""]))


if __name__ == "__main__":
    main()
