"""Hugging Face's Trainer: a small GPT-2 learns the bytes of this file.

pip install 'adabelief[torch]' transformers accelerate; python huggingface_trainer.py [--steps 200]
"""

import argparse
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from adabelief import AdaBeliefW

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=200)
steps = parser.parse_args().steps

CONTEXT = 64
text = torch.tensor(list(Path(__file__).read_bytes()))
examples = [{"input_ids": part, "labels": part} for part in text.unfold(0, CONTEXT, 8)]

# A model of your own: GPT2LMHeadModel.from_pretrained("gpt2"), and a tokenizer instead of bytes.
model = GPT2LMHeadModel(
    GPT2Config(vocab_size=256, n_positions=CONTEXT, n_embd=64, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0)
)
trainer = Trainer(
    model=model,
    args=TrainingArguments(
        output_dir="trainer",
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,  # the Trainer's schedule and its decay, which spares norms and biases, hold for ours too
        weight_decay=0.01,
        warmup_steps=steps // 20,
        lr_scheduler_type="cosine",
        logging_steps=max(steps // 10, 1),
        save_strategy="steps",
        save_steps=steps,
        report_to="none",
    ),
    train_dataset=examples,
    optimizer_cls_and_kwargs=(AdaBeliefW, {"lr": 1e-3, "betas": (0.9, 0.98), "eps": 1e-16}),
)
result = trainer.train()  # resume_from_checkpoint=True goes on where the last checkpoint is
print(f"loss {result.training_loss:.3f} on average")
