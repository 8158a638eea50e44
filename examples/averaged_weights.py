"""Averages of weights beside AdaBelief, by torch's swa_utils: an exponential one, and stochastic weight averaging.

pip install 'adabelief[torch]' scikit-learn; python averaged_weights.py [--steps 400]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.swa_utils import SWALR, AveragedModel, get_ema_multi_avg_fn, update_bn

from adabelief import AdaBeliefW

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=400)
steps = parser.parse_args().steps

torch.manual_seed(0)
digits = load_digits()
images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))
optimizer = AdaBeliefW(model.parameters(), lr=2e-3)

ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))  # follows every step
swa = AveragedModel(model)  # the mean over the last quarter of the steps, at a constant learning rate
swa_from, swa_schedule = steps * 3 // 4, None
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)

for step in range(steps):
    batch = torch.randint(1500, (64,))
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
    optimizer.step()
    ema.update_parameters(model)
    if step < swa_from:
        schedule.step()
        continue
    swa_schedule = swa_schedule or SWALR(optimizer, swa_lr=1e-3, anneal_epochs=max(steps // 20, 1))
    swa.update_parameters(model)
    swa_schedule.step()

train = [images[i : i + 100] for i in range(0, 1500, 100)]
for name, network in (("last", model), ("exponential average", ema), ("mean", swa)):
    if network is not model:
        update_bn(train, network)  # the statistics of batch normalization, for the averaged weights
    network.eval()
    with torch.no_grad():
        accuracy = (network(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
    print(f"{name}: {accuracy:.1%} of the test images")
