"""JAX with Flax's nnx: a small network on digits, with a schedule and clipping.

pip install 'adabelief[jax]' flax scikit-learn; python flax_nnx.py [--steps 300]
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

from adabelief.optax import adabeliefw

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 128, rngs=rngs)
        self.norm = nnx.LayerNorm(128, rngs=rngs)
        self.output = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        return self.output(nnx.relu(self.norm(self.hidden(x))))


def matrices(params):
    """Norms and biases do not decay."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


model = Classifier(nnx.Rngs(0))
schedule = optax.warmup_cosine_decay_schedule(0.0, 2e-3, warmup_steps=max(steps // 20, 1), decay_steps=steps)
rule = adabeliefw(schedule, weight_decay=0.01, mask=matrices)
optimizer = nnx.Optimizer(model, optax.chain(optax.clip_by_global_norm(1.0), rule), wrt=nnx.Param)


@nnx.jit
def train_step(model, optimizer, images, labels):
    def loss(model):
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    value, grads = nnx.value_and_grad(loss)(model)
    optimizer.update(model, grads)
    return value


digits, generator = load_digits(), np.random.default_rng(0)
images, labels = jnp.asarray(digits.data, jnp.float32) / 16, jnp.asarray(digits.target)
for _ in range(steps):
    batch = generator.integers(1500, size=64)
    value = train_step(model, optimizer, images[batch], labels[batch])
print(f"loss {value:.3f}, {(model(images[1500:]).argmax(1) == labels[1500:]).mean():.1%} of the test images")
