"""Fine-tuning in bf16: 2 bytes a weight, 2 a gradient, 3.01 of state, and yet weights that follow float32.

pip install 'adabelief[torch]'; python finetune_bf16.py [--steps 200] [--weights FILE]
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from adabelief import AdaBeliefW
from adabelief.torch import parameter_groups

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
parser.add_argument("--weights", help="the pre-trained weights; without, the model begins at random ones")
args = parser.parse_args()

CONTEXT, WIDTH = 64, 128
device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(256, WIDTH)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.output = nn.Linear(WIDTH, 256)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1], device=x.device, dtype=torch.bfloat16)
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x, mask, is_causal=True)
        return self.output(x)


model = Model().to(device, torch.bfloat16)
if args.weights:
    model.load_state_dict(torch.load(args.weights, map_location=device))
groups = parameter_groups(model, weight_decay=0.01, layer_decay=0.8, lr=1e-3)  # lower layers learn more slowly
optimizer = AdaBeliefW(groups, state_bits=8, master_weight_bits=24, max_update=1)

text = torch.tensor(list(Path(__file__).read_bytes()), device=device)
for _ in range(args.steps):
    starts = torch.randint(len(text) - CONTEXT - 1, (16, 1), device=device)
    batch = text[starts + torch.arange(CONTEXT + 1, device=device)]
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1).float(), batch[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
print(f"loss {loss.item():.3f}")
torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, "finetuned.pt")
