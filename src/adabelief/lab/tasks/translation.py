"""Translation from German to English by a Transformer, as in the paper: IWSLT14, and Multi30k on a smaller scale."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import cross_entropy

from adabelief.lab.catalogue import about
from adabelief.lab.data.pairs import Encoded, ParallelCorpus, by_tokens, corpus, encode, train_bpe
from adabelief.lab.models.transformer import PAD, Transformer, beam_search
from adabelief.lab.schedules import inverse_square_root
from adabelief.lab.task import QUESTIONS, Metric, Request, Scale, Settings, Task, Workload, and_rivals
from adabelief.lab.trainer import Trainer
from adabelief.settings import recommended

WARM_UP_STEPS, PUBLISHED_EPOCHS = 8000, 55
"""Steps of warm-up in the published experiment, and its epochs."""

EVALUATION_TOKENS = 4096
"""Tokens of a batch at evaluation, unless training has larger ones."""

BLEUS = ("always", "last", "never")
"""When BLEU is measured: after every epoch, which it then judges, or after the last one, or not at all."""

SIGNATURE = "nrefs:1|case:lc|eff:no|tok:13a|smooth:exp"
"""How sacreBLEU counts here, but for its version."""


class Batch(NamedTuple):
    """Sentence pairs: sources (n, s) and targets (n, t) in tokens, padded.

    `tokens` (n,) is the same in every row: how many tokens a target of the whole batch has, on average. It makes the
    means over parts of a batch, weighted by their sentences, the mean over its tokens, wherever it is split.
    """

    source: Tensor
    target: Tensor
    tokens: Tensor


class Translation(Workload):
    """A Transformer on sentence pairs.

    Args:
        request: Seed, tokens of a batch, and all of a scale's options.
        texts: The sentence pairs.
    """

    def __init__(self, request: Request, texts: ParallelCorpus) -> None:
        options = request.options
        self._seed, self._limit = request.seed, request.batch_size
        self._smoothing, self._beam, self._bleu = options["smoothing"], options["beam"], options["bleu"]
        self._bpe = train_bpe((text for side in texts.train for text in side), options["vocabulary"])
        self._train = encode(self._bpe, texts.train)
        self._held = {part: encode(self._bpe, getattr(texts, part)) for part in ("validation", "test")}
        self._references = {part: getattr(texts, part).target for part in self._held}
        shape = {name: options[name] for name in ("layers", "width", "inner", "heads", "dropout", "inner_dropout")}
        self.modules = {"model": Transformer(self._bpe.get_vocab_size(), **shape)}
        whole = len(by_tokens(self._train, self._limit))
        self.steps_per_epoch = min(options["steps"] or whole, whole)
        self._recent: deque[Mapping[str, Tensor]] = deque(maxlen=options["average"])

    def batches(self, epoch: int) -> Iterator[Batch]:
        """All pairs, or as many as the epoch has steps for, those of similar length together, in a drawn order."""
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        for indices in by_tokens(self._train, self._limit, generator)[: self.steps_per_epoch]:
            yield _batch(self._train, indices)

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy with label smoothing: its share in the mean over the tokens of the whole batch."""
        return self._cross_entropy(self.modules["model"], batch, self._smoothing) / batch.tokens.sum()

    def evaluate(self, trainer: Trainer) -> dict[str, float]:
        """Cross-entropy of the weights as they are; BLEU of the mean of those of the last epochs, by beam search."""
        model = trainer.bare(trainer.modules["model"])
        self._recent.append({name: x.detach().to("cpu", copy=True) for name, x in model.state_dict().items()})
        measured: dict[str, float] = {}
        held = {part: self._held[part] for part in trainer.held_out}
        for part, pairs in held.items():
            measured[f"{part}_loss"] = self._loss(pairs, trainer)
            measured[f"{part}_examples"] = len(pairs.source)
        if self._bleu == "never" or (self._bleu == "last" and trainer.moment.epoch + 1 < trainer.moment.epochs):
            return measured
        model.load_state_dict(mean(self._recent))
        for part, pairs in held.items():
            measured[f"{part}_BLEU"] = bleu(self._translate(pairs, trainer), self._references[part])
        model.load_state_dict(self._recent[-1])
        return measured

    def state_dict(self) -> dict[str, Any]:
        """The weights after each of the last epochs."""
        return {"recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them back."""
        self._recent.extend(state["recent"])

    def _loss(self, pairs: Encoded, trainer: Trainer) -> float:
        """Mean cross-entropy over the tokens, every process its share of the batches."""
        totals = torch.zeros(2, dtype=torch.float64)
        with trainer.evaluating() as modules:
            for indices in self._share(pairs, trainer):
                batch = trainer.to_device(_batch(pairs, indices))
                loss = self._cross_entropy(modules["model"], batch, 0.0)
                totals += torch.stack([loss, batch.tokens.sum()]).double().cpu()
        loss, tokens = trainer.sum(totals)
        return float(loss / tokens)

    def _translate(self, pairs: Encoded, trainer: Trainer) -> list[str]:
        """Translations of all sources, every process its share of the batches."""
        found: list[tuple[int, str]] = []
        with trainer.evaluating() as modules:
            for indices in self._share(pairs, trainer):
                source = pairs.rows(indices)[0].to(trainer.accelerator.device)
                texts = self._bpe.decode_batch(beam_search(modules["model"], source, self._beam))  # type: ignore[arg-type]
                found += zip(indices, (text.strip() for text in texts), strict=True)
        return [text for _, text in sorted(gather_object(found))]

    def _share(self, pairs: Encoded, trainer: Trainer) -> Sequence[list[int]]:
        accelerator = trainer.accelerator
        batches = by_tokens(pairs, max(self._limit, EVALUATION_TOKENS))
        return batches[accelerator.process_index :: accelerator.num_processes]

    @staticmethod
    def _cross_entropy(model: torch.nn.Module, batch: Batch, smoothing: float) -> Tensor:
        """The sum over the tokens of the targets."""
        logits = model(batch.source, batch.target[:, :-1]).float()
        wanted = batch.target[:, 1:].flatten()
        return cross_entropy(logits.flatten(0, 1), wanted, ignore_index=PAD, reduction="sum", label_smoothing=smoothing)


def _batch(pairs: Encoded, indices: Sequence[int]) -> Batch:
    source, target = pairs.rows(indices)
    tokens = int((target[:, 1:] != PAD).sum())
    return Batch(source, target, torch.full((len(indices),), tokens / len(indices)))


def mean(weights: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The mean of each weight over several of the same model."""
    return {name: torch.stack([one[name] for one in weights]).mean(0) for name in weights[0]}


def bleu(translations: Sequence[str], references: Sequence[str]) -> float:
    """BLEU of a corpus by sacreBLEU, in lower case; its signature is `SIGNATURE`."""
    from sacrebleu import BLEU  # half a second to import

    return float(BLEU(lowercase=True).corpus_score(list(translations), [list(references)]).score)


def transformer_settings() -> Settings:
    """What the authors published for the Transformer; Adam, without decay, SGD, EAdam and those behind it are ours.

    Theirs was run in fairseq, whose Adam decouples the decay: it is AdamW here. EAdam has AdaBelief's eps.
    """
    belief = recommended("transformer")
    adam = {"lr": 1.5e-3, "betas": (0.9, 0.98), "eps": 1e-8}
    ours = {
        "AdaBelief": belief,
        "Adam": adam,
        "AdamW": {**adam, "weight_decay": 1e-4},
        "RAdam": {**adam, "weight_decay": 1e-4},
        "SGD": {"lr": 0.1, "momentum": 0.9},
        "EAdam": {**adam, "eps": belief["eps"]},
    }
    return and_rivals(ours, weight_decay=1e-4)


def _metric(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """BLEU where every epoch has it, or else the cross-entropy."""
    if options.get("bleu", "always") == "always":
        return {}
    return {"name": "loss", "unit": "nats per token", "higher_is_better": False, "title": "cross-entropy"}


def _make(request: Request) -> Translation:
    if request.options["bleu"] not in BLEUS:
        raise ValueError(f"bleu={request.options['bleu']!r}: there are {', '.join(BLEUS)}; choose with --set bleu=...")
    return Translation(request, corpus(request.options["corpus"], request.data))


_PAPER = {
    "corpus": "iwslt14",
    "vocabulary": 10_000,
    "layers": 6,
    "width": 512,
    "inner": 1024,
    "heads": 4,
    "dropout": 0.3,
    "inner_dropout": 0.1,
    "smoothing": 0.1,
    "average": 5,
    "beam": 5,
    "bleu": "always",
    "steps": None,
}

TASKS = {
    "translation": Task(
        **about("translation"),
        metric=Metric("BLEU", by_options=_metric),
        scales=lambda model: {
            "smoke": Scale(
                epochs=4,
                batch_size=128,
                options={
                    **_PAPER,
                    "corpus": "embedded",
                    "vocabulary": 400,
                    "layers": 1,
                    "width": 64,
                    "inner": 128,
                    "dropout": 0.1,
                    "average": 2,
                },
                note="1,000 generated sentences, one layer of width 64, 4 epochs: it shows that everything runs",
            ),
            "small": Scale(
                epochs=8,
                batch_size=1024,
                options={
                    **_PAPER,
                    "corpus": "multi30k",
                    "vocabulary": 4000,
                    "layers": 4,
                    "width": 128,
                    "inner": 256,
                    "dropout": 0.1,
                    "inner_dropout": 0.0,
                },
                note="29,000 pairs of captions (Multi30k) instead of 160,239 of talks, 4+4 layers of width 128 instead "
                "of 6+6 of width 512, less dropout, 8 epochs instead of 55, batches of 1,024 instead of 4,096 tokens",
            ),
            "study": Scale(
                epochs=3,
                batch_size=1024,
                options={
                    **_PAPER,
                    **{"corpus": "multi30k", "vocabulary": 4000, "layers": 2, "width": 64, "inner": 256, "heads": 4},
                    **{"dropout": 0.1, "inner_dropout": 0.0, "average": 1, "bleu": "never", "steps": 300, **QUESTIONS},
                },
                note="29,000 pairs of captions (Multi30k), 2+2 layers of width 64, 900 steps of 1,024 tokens, a cosine "
                "with warm-up; judged by the cross-entropy: --set bleu=last measures BLEU after the last epoch",
                target=3.0,
                threads=1,
            ),
            "paper": Scale(
                epochs=PUBLISHED_EPOCHS,
                batch_size=4096,
                options=_PAPER,
                note="subwords of bytes and sacreBLEU's tokens instead of Moses'; the same batches for all, while the "
                "authors' AdaBelief had two GPUs, and so twice the batch of its rivals",
            ),
        },
        settings=lambda model: transformer_settings(),
        make=_make,
        schedule=inverse_square_root(WARM_UP_STEPS, PUBLISHED_EPOCHS),
    )
}
