"""A GAN on digits: two networks, an optimizer each, with the authors' settings for small GANs.

pip install 'adabelief[torch]' scikit-learn; python gan.py [--steps 1000]
"""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from adabelief import AdaBelief, recommended

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
steps = parser.parse_args().steps

LATENT, BATCH = 16, 64
torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data, dtype=torch.float32) / 8 - 1
labels = one_hot(torch.tensor(digits.target), 10).float()

generator = nn.Sequential(
    nn.Linear(LATENT + 10, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64)
)
critic = nn.Sequential(
    nn.Linear(64 + 10, 128), nn.LeakyReLU(0.2), nn.Linear(128, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
)
settings = recommended("gan-small", AdaBelief)  # lr 2e-4, betas (0.5, 0.999), eps 1e-12
print(settings)
for_generator = AdaBelief(generator.parameters(), **settings)
for_critic = AdaBelief(critic.parameters(), **settings)

for step in range(steps):
    batch = torch.randint(len(images), (BATCH,))
    real, kind = images[batch], labels[batch]
    fake = torch.tanh(generator(torch.cat([torch.randn(BATCH, LATENT), kind], 1)))

    for_critic.zero_grad()
    on_real = critic(torch.cat([real, kind], 1))
    on_fake = critic(torch.cat([fake.detach(), kind], 1))
    loss = binary_cross_entropy_with_logits(on_real, torch.full_like(on_real, 0.9))
    loss = loss + binary_cross_entropy_with_logits(on_fake, torch.zeros_like(on_fake))
    loss.backward()
    for_critic.step()

    for_generator.zero_grad()
    on_fake = critic(torch.cat([fake, kind], 1))
    loss_of_generator = binary_cross_entropy_with_logits(on_fake, torch.ones_like(on_fake))
    loss_of_generator.backward()
    for_generator.step()
    if step % 200 == 0 or step == steps - 1:
        print(f"step {step}: critic {loss.item():.3f}, generator {loss_of_generator.item():.3f}")

torch.save(generator.state_dict(), "generator.pt")
