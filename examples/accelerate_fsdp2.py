"""accelerate with FSDP2: weights, gradients and state are sharded over processes.

pip install 'adabelief[torch]' accelerate; torchrun --nproc-per-node 2 accelerate_fsdp2.py [--steps 100]
"""

import argparse

import torch
from accelerate import Accelerator, FullyShardedDataParallelPlugin
from torch import nn

from adabelief import AdaBeliefW

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=100)
steps = parser.parse_args().steps

plugin = FullyShardedDataParallelPlugin(
    fsdp_version=2,
    auto_wrap_policy="transformer_based_wrap",
    transformer_cls_names_to_wrap=["TransformerEncoderLayer"],
    state_dict_type="SHARDED_STATE_DICT",
)
accelerator = Accelerator(fsdp_plugin=plugin, cpu=not torch.cuda.is_available())

torch.manual_seed(0)  # the same weights in every process
VOCABULARY, CONTEXT, WIDTH = 64, 32, 128
layer = nn.TransformerEncoderLayer(WIDTH, nhead=4, dim_feedforward=256, dropout=0.0, batch_first=True, norm_first=True)
model = nn.Sequential(
    nn.Embedding(VOCABULARY, WIDTH), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(WIDTH, 64)
)
# state_bits=8: 2 bytes a parameter, sharded with the rows. Give prepare both: it moves the optimizer to the shards.
optimizer = AdaBeliefW(model.parameters(), lr=1e-3, state_bits=8)
model, optimizer = accelerator.prepare(model, optimizer)

torch.manual_seed(accelerator.process_index)  # other data in every process
for step in range(steps):
    start = torch.randint(VOCABULARY, (16, 1), device=accelerator.device)
    text = (start + torch.arange(CONTEXT + 1, device=accelerator.device)) % VOCABULARY  # it counts
    optimizer.zero_grad()
    logits = model(text[:, :-1])
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    accelerator.backward(loss)
    accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    if step % 20 == 0 or step == steps - 1:
        accelerator.print(f"step {step}: loss {loss.item():.3f}")

accelerator.save_state("fsdp2")  # load_state goes on, on as many processes
accelerator.end_training()
