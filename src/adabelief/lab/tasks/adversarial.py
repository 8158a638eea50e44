"""A generator and a critic against each other.

Two modules, `generator` and `critic` (as the discriminator is called here, whatever its loss), each with an optimizer
of its own. A batch brings all that is random: latents, wanted classes, where a gradient penalty is taken. The critic
steps on every batch, the generator on the first of every `critic_steps` of them, from the same latents, as in the
authors' code. After each epoch images from latents that stay the same are compared with held-out training images
("validation") and with test images, by their Fréchet distance on the features of a network that is named beside it.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate, relu, softplus

from adabelief.lab.data.examples import Examples, Split
from adabelief.lab.models import coverage, frechet
from adabelief.lab.models.frechet import Gaussian
from adabelief.lab.task import Request, Workload
from adabelief.lab.trainer import Trainer

EVALUATION_BATCH = 250
SHOWN = 8
"""Generated images that an epoch keeps for the report."""


class Batch(NamedTuple):
    """What a step takes, n of each.

    Attributes:
        images: Real ones, (n, channels, size, size) in [−1, 1].
        labels: Their classes, (n,).
        latents: What images are generated from, (n, z), normal.
        classes: What these are to be, (n,).
        mix: How much of a real one there is in the image whose gradient is penalized, (n, 1, 1, 1), from 0 to 1.
    """

    images: Tensor
    labels: Tensor
    latents: Tensor
    classes: Tensor
    mix: Tensor


@dataclass(frozen=True)
class Game:
    """What sets a kind of GAN apart.

    Attributes:
        networks: Generator and critic, from classes, channels, size and width.
        latent: Numbers in a latent.
        critic_loss: What the critic descends on, from the scores of real and of generated images.
        generator_loss: What the generator descends on, from the scores of generated images.
    """

    networks: Callable[[int, int, int, float], tuple[nn.Module, nn.Module]]
    latent: int
    critic_loss: Callable[[Tensor, Tensor], Tensor]
    generator_loss: Callable[[Tensor], Tensor]


def wasserstein(real: Tensor, fake: Tensor) -> Tensor:
    """E f(fake) − E f(real): minus the estimate of the Wasserstein distance (Arjovsky et al., 2017)."""
    return fake.mean() - real.mean()


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    """E max(0, 1 − f(real)) + E max(0, 1 + f(fake)) (Lim and Ye, 2017)."""
    return relu(1 - real).mean() + relu(1 + fake).mean()


def logistic(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy, −E log σ(f(real)) − E log(1 − σ(f(fake))) (Goodfellow et al., 2014)."""
    return softplus(-real).mean() + softplus(fake).mean()


def lowest(fake: Tensor) -> Tensor:
    """−E f(fake), the generator's part in `wasserstein` and `hinge`."""
    return -fake.mean()


def unsaturated(fake: Tensor) -> Tensor:
    """−E log σ(f(fake)), the generator's part that goes with `logistic`."""
    return softplus(-fake).mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """E (|∇f| − 1)², the gradient with respect to each image (Gulrajani et al., 2017).

    Args:
        critic: Maps images to scores (n,).
        images: Where it is taken, (n, c, h, w).

    Example:
        >>> gradient_penalty(lambda x: 3 * x.sum((1, 2, 3)), torch.zeros(2, 1, 2, 2)).item()  # |∇f| = 3·√4
        25.0
    """
    at = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(at).sum(), at, create_graph=True)
    penalty: Tensor = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
    return penalty


class Adversarial(Workload):
    """A generator and a critic against each other.

    Args:
        request: Seed, batch size and options.
        split: Images in [−1, 1] or in uint8 from 0 to 255.
        game: What kind of GAN.

    Raises:
        ValueError: If `frechet` refuses the features.
    """

    def __init__(self, request: Request, split: Split, game: Game) -> None:
        options = request.options
        self._game, self._split = game, split
        self._seed, self._batch_size = request.seed, request.batch_size
        self._size, self._flip, self._passes = options["size"], options["flip"], options["passes"]
        self._critic_steps, self._clip, self._penalty = options["critic_steps"], options["clip"], options["penalty"]
        images, labels = split.train
        self._classes = int(labels.max()) + 1
        generator, critic = game.networks(self._classes, images.shape[1], self._size, options["width"])
        self.modules = {
            name: module.to(memory_format=torch.channels_last)
            for name, module in (("generator", generator), ("critic", critic))
        }
        self._steps_per_pass = -(-len(labels) // request.batch_size)
        self.steps_per_epoch = self._passes * self._steps_per_pass
        self._features = frechet.network(options["features"])
        self._named_features = [options["features"], frechet.sha256(self._features, options["features"])]
        self._width = frechet.width(self._features, options["features"], self._size)
        self._samples = options["samples"]
        self._coverage, self._judge, self._accuracy = options["coverage"], nn.Module(), float("nan")
        self._real: dict[str, Gaussian] = {}
        self._between_real = float("nan")

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All images, as often as an epoch passes over them, with all that is random, drawn from seed and epoch."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        images, labels = self._split.train
        for _ in range(self._passes):
            for indices in torch.split(torch.randperm(len(labels), generator=generator), self._batch_size):
                n = len(indices)
                real = self._prepare(images[indices])
                if self._flip:
                    flipped = torch.randint(2, (n, 1, 1, 1), generator=generator).bool()
                    real = torch.where(flipped, real.flip(-1), real)
                latents = torch.randn(n, self._game.latent, generator=generator)
                classes = torch.randint(self._classes, (n,), generator=generator)
                mix = torch.rand(n, 1, 1, 1, generator=generator)
                yield Batch(real, labels[indices], latents, classes, mix)

    def step(self, batch: Batch, trainer: Trainer) -> Tensor:
        """A step of the critic, and in its turn of the generator; returns the critic's loss."""
        critic = trainer.bare(self.modules["critic"])
        loss = trainer.descend("critic", batch, self.critic_loss)
        if self._clip:
            with torch.no_grad():
                for p in critic.parameters():
                    p.clamp_(-self._clip, self._clip)
        if trainer.moment.step % self._steps_per_pass % self._critic_steps == 0:
            critic.requires_grad_(False)  # it hands gradients on, and takes none of a loss that is not its own
            trainer.descend("generator", batch, partial(self.generator_loss, critic=critic))
            critic.requires_grad_(True)
        return loss

    def critic_loss(self, batch: Batch) -> Tensor:
        """What the critic descends on."""
        critic = self.modules["critic"]
        with torch.no_grad():
            fake = self.modules["generator"](batch.latents, batch.classes)
        loss = self._game.critic_loss(critic(batch.images, batch.labels), critic(fake, batch.classes))
        if self._penalty:
            mixed = batch.mix * batch.images + (1 - batch.mix) * fake
            loss = loss + self._penalty * gradient_penalty(lambda images: critic(images, batch.labels), mixed)
        return loss

    def generator_loss(self, batch: Batch, *, critic: nn.Module) -> Tensor:
        """What the generator descends on; `critic` is without what several processes wrap around it."""
        fake = self.modules["generator"](batch.latents, batch.classes)
        return self._game.generator_loss(critic(fake, batch.classes))

    def evaluate(self, trainer: Trainer) -> dict[str, Any]:
        """The Fréchet distance to both sets of real images, and between them; diversity; some samples as PNG.

        `features` is what the distance was measured on: a name, and the hash that tells it from others of this name.
        With `coverage`, which classes a small classifier sees, and its own accuracy on the validation images in %.
        """
        if not self._real:
            self._features.to(trainer.accelerator.device)
            for part in ("validation", "test"):
                examples = map(Examples, *(torch.split(x, EVALUATION_BATCH) for x in getattr(self._split, part)))
                self._real[part] = self._fit(examples, lambda images, labels: self._prepare(images), trainer)
            self._between_real = frechet.distance(self._real["validation"], self._real["test"])
            self._teach(trainer)
        seen = torch.zeros(self._classes, dtype=torch.float64)
        with trainer.evaluating() as modules:

            def draw(latents: Tensor, classes: Tensor) -> Tensor:
                images: Tensor = modules["generator"](latents, classes)
                if self._coverage:
                    seen.add_(coverage.counts(self._judge, images.float(), self._classes))
                return images

            fake = self._fit(self._codes(), draw, trainer)
            shown = modules["generator"](*trainer.to_device(next(self._codes())))[:SHOWN]
        return {
            **{f"{part}_frechet": frechet.distance(real, fake) for part, real in self._real.items()},
            **{f"{part}_examples": len(getattr(self._split, part).labels) for part in self._real},
            "real_frechet": self._between_real,
            "features": self._named_features,
            "generated_examples": self._samples,
            "diversity": frechet.diversity(fake, self._real["test"]),
            "samples": [_png(image) for image in shown],
            **self._covered(trainer.sum(seen).cpu()),
        }

    def _teach(self, trainer: Trainer) -> None:
        """Trains the classifier that `coverage` asks for on the real images, alike in every process."""
        if not self._coverage:
            return

        def prepare(images: Tensor) -> Tensor:
            return self._prepare(images.to(trainer.accelerator.device))

        self._judge = coverage.classifier(*self._split.train, prepare, epochs=self._coverage)
        held, wanted = self._split.validation
        said = torch.cat([self._judge(prepare(x)).argmax(1).cpu() for x in torch.split(held, EVALUATION_BATCH)])
        self._accuracy = 100 * (said == wanted).double().mean().item()

    def _covered(self, seen: Tensor) -> dict[str, Any]:
        if not self._coverage:
            return {}
        return {
            "classes_covered": coverage.covered(seen),
            "classes_effective": coverage.effective(seen),
            "classifier_accuracy": self._accuracy,
        }

    def _codes(self) -> Iterator[Examples]:
        """The latents that evaluations look at, the same after every epoch; the classes come in turn."""
        drawn = torch.Generator().manual_seed(self._seed)
        for indices in torch.split(torch.arange(self._samples), EVALUATION_BATCH):
            yield Examples(torch.randn(len(indices), self._game.latent, generator=drawn), indices % self._classes)

    @torch.no_grad()
    def _fit(self, batches: Iterator[Examples], draw: Callable[[Tensor, Tensor], Tensor], trainer: Trainer) -> Gaussian:
        """The Gaussian of the images that are drawn from the batches, every process its share of them."""
        processes, device = trainer.accelerator.num_processes, trainer.accelerator.device
        total = torch.zeros(1 + self._width, 1 + self._width, dtype=torch.float64)
        for i, batch in enumerate(batches):
            if i % processes == trainer.accelerator.process_index:
                images = draw(*trainer.to_device(batch)).float()
                with torch.autocast(device.type, enabled=False):
                    total += frechet.scatter(self._features((images.expand(-1, 3, -1, -1) + 1) / 2))
        return frechet.gaussian(trainer.sum(total).cpu())

    def _prepare(self, images: Tensor) -> Tensor:
        """Images in float32 from −1 to 1, at the size and in the memory format that the networks have."""
        pixels = images.float() / 127.5 - 1 if images.dtype == torch.uint8 else images
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        if pixels.shape[-1] == self._size:
            return pixels
        return interpolate(pixels, size=(self._size, self._size), mode="bilinear", antialias=True)


def _png(image: Tensor) -> str:
    """An image in [−1, 1] as a PNG file in base64."""
    pixels = ((image.float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).expand(-1, -1, 3).numpy()).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
