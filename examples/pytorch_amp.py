"""A PyTorch loop with mixed precision and clipping: digits, a small convolutional network.

pip install 'adabelief[torch]' scikit-learn; python pytorch_amp.py [--steps 300]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn

from adabelief import AdaBeliefW
from adabelief.torch import parameter_groups

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.images, dtype=torch.float32, device=device).unsqueeze(1) / 16
labels = torch.tensor(digits.target, device=device)

model = nn.Sequential(
    *(nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)),
    *(nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
    *(nn.Flatten(), nn.Linear(64, 10)),
).to(device)
# fused=True: the kernel divides by the scale itself, and skips a step that has inf, without waiting for the device.
fused = True if device == "cuda" else None
optimizer = AdaBeliefW(parameter_groups(model, weight_decay=0.01), lr=2e-3, fused=fused)
schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps)
scaler = torch.amp.GradScaler(device, enabled=device == "cuda")  # float16 needs one, bfloat16 does not
half = torch.float16 if device == "cuda" else torch.bfloat16

for step in range(steps):
    batch = torch.randint(1500, (64,), device=device)
    optimizer.zero_grad()
    with torch.autocast(device, dtype=half):
        loss = nn.functional.cross_entropy(model(images[batch]), labels[batch])
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # by norm: clipping by value makes gradients look predictable
    scaler.step(optimizer)
    scaler.update()
    schedule.step()
    if step % 50 == 0 or step == steps - 1:
        print(f"step {step}: loss {loss.item():.3f}")

model.eval()
with torch.no_grad():
    accuracy = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean().item()
print(f"{accuracy:.1%} of the test images")
