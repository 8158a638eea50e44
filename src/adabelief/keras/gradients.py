"""Gradients as backends and strategies hand them over, and what a step needs of them: the variable's shape, and rows.

Only TensorFlow has gradients of a few rows (`tf.IndexedSlices`, of embeddings) and of shapes that are not known before
the step (of `tf.py_function`; of embeddings under a strategy, which are summed over replicas).
"""

from __future__ import annotations

from typing import Any

import keras

BACKEND = keras.backend.backend()


def sparse_rows(gradient: Any) -> Any:
    """The rows that a gradient has, where it is `tf.IndexedSlices`; None for any other one."""
    if BACKEND != "tensorflow":
        return None
    import tensorflow as tf

    return gradient.indices if isinstance(gradient, tf.IndexedSlices) else None


def dense(gradient: Any, variable: Any) -> Any:
    """The whole gradient of a variable, in its shape; rows that it has not are 0, and repeated ones are added up."""
    rows = sparse_rows(gradient)
    if BACKEND != "tensorflow":
        return keras.ops.convert_to_tensor(gradient)
    import tensorflow as tf

    if rows is not None:
        gradient = tf.math.unsorted_segment_sum(gradient.values, rows, variable.shape[0])
    return tf.ensure_shape(gradient, variable.shape)
