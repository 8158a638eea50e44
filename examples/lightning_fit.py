"""Lightning: digits, with a schedule, clipping, and a probe that says whether eps lets the optimizer adapt.

pip install 'adabelief[torch]' lightning scikit-learn; python lightning_fit.py [--steps 300]
"""

import argparse

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adabelief import AdaBeliefW, Probe
from adabelief.torch import parameter_groups

LR = 2e-3


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(64, 128), nn.LayerNorm(128), nn.ReLU(), nn.Linear(128, 10))

    def training_step(self, batch, index):
        images, labels = batch
        loss = nn.functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, index):
        images, labels = batch
        self.log("accuracy", (self.network(images).argmax(1) == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self):
        optimizer = AdaBeliefW(parameter_groups(self.network, weight_decay=0.01), lr=LR)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self):
        self.probe = Probe(self.optimizers().optimizer, every=10).__enter__()

    def on_train_end(self):
        self.probe.__exit__(None, None, None)
        print(self.probe.verdict)


parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=300)
steps = parser.parse_args().steps

lightning.seed_everything(0)
digits = load_digits()
data = TensorDataset(torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target))
train, validation = torch.utils.data.random_split(data, [1500, len(data) - 1500])
trainer = lightning.Trainer(max_steps=steps, gradient_clip_val=1.0, logger=False, enable_checkpointing=False)
model, held_out = Classifier(), DataLoader(validation, 297)
trainer.fit(model, DataLoader(train, 64, shuffle=True), held_out)
print(f"{trainer.validate(model, held_out, verbose=False)[0]['accuracy']:.1%} of the validation images")
