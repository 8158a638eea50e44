"""A search of settings for a training function of one's own: AdaBelief and AdamW, with the same trials each.

pip install 'adabelief[tune]'; python tune_own_script.py [--steps 200] [--trials 8] [--workers 1]
"""

import argparse
import os

import torch
from sklearn.datasets import load_digits
from torch import nn

from adabelief.lab import tune

STEPS = int(os.environ.get("TUNE_STEPS", "200"))  # workers import this file: they see no arguments of it
SPACE = {
    "AdaBelief": {
        "lr": {"low": 1e-4, "high": 1e-1},
        "floor": {"low": 1e-8, "high": 1e-2},  # of the denominator, the same for both: eps follows
        "weight_decay": {"low": 1e-3, "high": 1.0},
        "weight_decouple": True,
    },
    "AdamW": {
        "lr": {"low": 1e-4, "high": 1e-1},
        "floor": {"low": 1e-8, "high": 1e-2},
        "weight_decay": {"low": 1e-3, "high": 1.0},
    },
}


def objective(trial):
    """Trains with a trial's settings; the validation loss, by which it is judged."""
    torch.manual_seed(trial.seed)
    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    optimizer = trial.build(model.parameters())
    for _ in range(STEPS):
        batch = torch.randint(1300, (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return nn.functional.cross_entropy(model(images[1300:1500]), labels[1300:1500]).item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    STEPS = args.steps
    os.environ["TUNE_STEPS"] = str(args.steps)
    best = tune(objective, SPACE, trials=args.trials, workers=args.workers, out="tuned")  # the same call goes on
    for arm, outcomes in best.items():
        print(f"{arm}: {outcomes[0].value:.4f} with {dict(outcomes[0].settings)}")
