"""Keras: fit with a schedule, clipping, and callbacks; on TensorFlow, JAX or PyTorch (KERAS_BACKEND).

pip install 'adabelief[keras]' tensorflow scikit-learn; python keras_fit.py [--steps 300]
"""

import argparse

import keras
from sklearn.datasets import load_digits

from adabelief.keras import AdaBeliefW

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps

BATCH = 64
epochs = max(steps * BATCH // 1536, 1)
keras.utils.set_random_seed(0)
digits = load_digits()
images, labels = digits.images[..., None].astype("float32") / 16, digits.target

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Conv2D(32, 3, padding="same", use_bias=False),
        keras.layers.BatchNormalization(),
        keras.layers.ReLU(),
        keras.layers.Conv2D(64, 3, strides=2, padding="same", activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(10, activation="softmax"),
    ]
)
schedule = keras.optimizers.schedules.CosineDecay(2e-3, decay_steps=steps)
optimizer = AdaBeliefW(schedule, weight_decay=0.01, global_clipnorm=1.0)
optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])
model.fit(
    images[:1536],
    labels[:1536],
    batch_size=BATCH,
    epochs=epochs,
    validation_data=(images[1536:], labels[1536:]),
    callbacks=[keras.callbacks.ModelCheckpoint("digits.keras")],  # with the optimizer's state
    verbose=2,
)
again = keras.models.load_model("digits.keras")  # fit goes on from here
accuracy = again.evaluate(images[1536:], labels[1536:], verbose=0)[1]
print(f"{accuracy:.1%} of the test images")
