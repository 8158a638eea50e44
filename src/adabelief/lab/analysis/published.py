"""Published results, as data, each with its source: what others got for AdaBelief and its rivals.

Sources disagree, and the table keeps them apart: the authors' figures show means of three runs, their logs are single
runs, and a "best" accuracy was picked on the test set itself, which the lab never does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

FINAL = "test accuracy after the last epoch, %"
BEST = "test accuracy at its best epoch, %"
REPORTED = "test accuracy as reported, %"
"""The source does not say of which epoch."""

FID_FINAL = "FID after the last epoch"
FID_BEST = "FID at its best epoch"

BLEU = "test BLEU as reported"

PERPLEXITY_FINAL = "test perplexity after the last epoch"

RETURN_FINAL = "test return after the last epoch"
"""In reinforcement learning, the mean over episodes of their sum of rewards."""

LAST_EPOCH = (FINAL, FID_FINAL, PERPLEXITY_FINAL, RETURN_FINAL)
"""Those that stand against ours after the last epoch; the others, against ours at the epoch that validation picked."""

HIGHER_IS_BETTER: Mapping[str, bool] = {
    **{FINAL: True, BEST: True, REPORTED: True, BLEU: True, RETURN_FINAL: True},
    **{FID_FINAL: False, FID_BEST: False, PERPLEXITY_FINAL: False},
}


@dataclass(frozen=True)
class Source:
    """Where numbers come from: the full citation, and whether they were read off a plot, by eye."""

    citation: str
    read_off: bool = False


_PAPER = (
    "J. Zhuang, T. Tang, Y. Ding, S. Tatikonda, N. Dvornek, X. Papademetris, J. Duncan: AdaBelief Optimizer: Adapting "
    "Stepsizes by the Belief in Observed Gradients, NeurIPS 2020, arXiv:2010.07468"
)
_REPRODUCTION = (
    "A. Buvanesh, M. Panwar: [Re] AdaBelief Optimizer: Adapting Stepsizes by the Belief in Observed Gradients, "
    "ReScience C, 2022, doi:10.5281/zenodo.6574643"
)
_EADAM = "W. Yuan, K. Gao: EAdam Optimizer: How ε Impact Adam, arXiv:2011.02150"
_TRACKER = "https://github.com/juntang-zhuang/Adabelief-Optimizer"

SOURCES: Mapping[str, Source] = {
    "paper-figure": Source(f"{_PAPER}: the plots of test accuracy, mean of 3 runs", read_off=True),
    "paper-table": Source(f"{_PAPER}: Table 2"),
    "paper-boxes": Source(f"{_PAPER}: Figure 6, the medians of its box plots of 5 runs", read_off=True),
    "paper-fids": Source(f"{_PAPER}: Table 3, mean of 5 runs"),
    "authors-sngan": Source(f"{_PAPER}: the README of github.com/juntang-zhuang/SNGAN-AdaBelief, 1 run each"),
    "authors-bleu": Source(f"{_PAPER}: its README; the code is github.com/juntang-zhuang/transformer-adabelief"),
    "authors-fairseq": Source(f"{_PAPER}: the logs of github.com/juntang-zhuang/fairseq-adabelief, 1 run each"),
    "authors-logs": Source(f"{_TRACKER}: the logs of PyTorch_Experiments/classification_cifar10/curve, 1 run each"),
    "paper-perplexity": Source(
        f"{_PAPER}: the plots of test perplexity, mean of 3 runs, the learning rate divided after epochs 75 and 150",
        read_off=True,
    ),
    "authors-lstm-logs": Source(f"{_TRACKER}: the logs of PyTorch_Experiments/LSTM/curve, 1 run each"),
    "authors-notebook": Source(f"{_PAPER}: TensorFlow_Experiments/convolutional_network.ipynb of its code, 1 run"),
    "authors-sac": Source(
        f"{_PAPER}: the plots of github.com/juntang-zhuang/SAC-Adabelief, mean of 10 runs", read_off=True
    ),
    "authors-rainbow": Source(f"{_PAPER}: the logs of github.com/juntang-zhuang/rainbow-adabelief, mean of 2 runs"),
    "authors-rainbow-figure": Source(
        f"{_PAPER}: the plot of github.com/juntang-zhuang/rainbow-adabelief", read_off=True
    ),
    "rescience": Source(f"{_REPRODUCTION}: the text and its tables"),
    "rescience-logs": Source(f"{_REPRODUCTION}: the logs of github.com/anirudhb11/Adabelief-Optimizer-RC, 1 run each"),
    "padam": Source(
        "J. Chen, D. Zhou, Y. Tang, Z. Yang, Y. Cao, Q. Gu: Closing the Generalization Gap of Adaptive Gradient "
        "Methods in Training Deep Neural Networks, IJCAI 2020, arXiv:1806.06763"
    ),
    "radam": Source(
        "L. Liu, H. Jiang, P. He, W. Chen, X. Liu, J. Gao, J. Han: On the Variance of the Adaptive Learning Rate and "
        "Beyond, ICLR 2020, arXiv:1908.03265"
    ),
    "acprop": Source(
        "J. Zhuang, Y. Ding, T. Tang, N. Dvornek, S. Tatikonda, J. Duncan: Momentum Centering and Asynchronous Update "
        "for Adaptive Gradient Methods, NeurIPS 2021, arXiv:2110.05454"
    ),
    "apollo": Source(
        "X. Ma: Apollo: An Adaptive Parameter-wise Diagonal Quasi-Newton Method for Nonconvex Stochastic Optimization, "
        "arXiv:2009.13586: the tables of github.com/XuezheMax/apollo"
    ),
    "eadam": Source(f"{_EADAM}: the table of github.com/yuanwei2019/EAdam-optimizer"),
    "eadam-logs": Source(f"{_EADAM}: the logs of github.com/yuanwei2019/EAdam-optimizer, 1 run each"),
    "issue-11": Source(f"X. Ma, {_TRACKER}/issues/11: mean of 3 runs"),
    "issue-50": Source(f"wyzjack, {_TRACKER}/issues/50"),
    "timm-542": Source("J. Zhuang, https://github.com/huggingface/pytorch-image-models/pull/542"),
}


@dataclass(frozen=True)
class Published:
    """A published number.

    Attributes:
        task: As in `adabelief tasks`.
        model: The network, as in `adabelief.lab.models.images` where it is there; empty for a task that has one only.
        optimizer: A name in `adabelief.lab.optimizers.METHODS`, or of an optimizer that the lab does not run.
        metric: What was measured, a name in `HIGHER_IS_BETTER`.
        value: The number, in the metric's unit.
        spread: One standard deviation over the runs, where the source gives it.
        source: A key of `SOURCES`.
        note: What sets the number apart from its neighbours, or "".
    """

    task: str
    model: str
    optimizer: str
    metric: str
    value: float
    spread: float | None
    source: str
    note: str = ""


_NINE = ("SGD", "Adam", "AdamW", "RAdam", "AdaBound", "Yogi", "MSVAG", "Fromage", "AdaBelief")
_QUOTED = "quoted in Table 2 of the AdaBelief paper; run with another weight decay, 1e-4, and another schedule"
_PEAK = "the peak of the mean curve, after the learning rate's decay"
_OLD_GAME = "in version 2 of the environment"
_COPIED = "this log equals the authors' own in every epoch: it is no second run"
_SCRIPT_LR = "with the learning rate of the authors' script, 1e-2, which the paper's figure does not agree with"


_SNGAN = {
    "AdaBelief": (12.52, 0.16),
    "RAdam": (12.70, 0.12),
    "RMSprop": (13.13, 0.12),
    "Adam": (13.05, 0.19),
    "Fromage": (42.75, 0.15),
    "Yogi": (14.25, 0.15),
    "SGD": (49.70, 0.41),
    "MSVAG": (48.35, 5.44),
    "AdaBound": (55.65, 2.15),
}
_SNGAN_AGAIN = {
    "AdaBelief": (12.98, 0.22),
    "RAdam": (13.10, 0.20),
    "RMSprop": (12.86, 0.08),
    "Adam": (13.01, 0.15),
    "Fromage": (46.31, 0.86),
    "Yogi": (14.16, 0.05),
    "SGD": (48.94, 2.88),
    "MSVAG": (56.89, 2.61),
    "AdaBound": (16.84, 0.10),
}


def _nine(task: str, model: str, metric: str, source: str, values: str, **notes: str) -> Iterator[Published]:
    for optimizer, value in zip(_NINE, values.split(), strict=True):
        if value != "-":
            yield Published(task, model, optimizer, metric, float(value), None, source, notes.get(optimizer, ""))


def _some(
    task: str, model: str, metric: str, source: str, values: Mapping[str, float], note: str = ""
) -> Iterator[Published]:
    for optimizer, value in values.items():
        yield Published(task, model, optimizer, metric, value, None, source, note)


def _spread(
    task: str, metric: str, source: str, values: Mapping[str, tuple[float, float]], note: str = ""
) -> Iterator[Published]:
    for optimizer, (mean, spread) in values.items():
        yield Published(task, "", optimizer, metric, mean, spread, source, note)


PUBLISHED: tuple[Published, ...] = (
    # SGD Adam AdamW RAdam AdaBound Yogi MSVAG Fromage AdaBelief
    *_nine("cifar10", "vgg11", FINAL, "authors-logs", "89.31 88.10 89.08 89.19 90.60 90.50 89.96 89.40 91.17"),
    *_nine("cifar10", "vgg11", BEST, "authors-logs", "90.11 88.40 89.39 89.30 90.62 90.67 90.24 89.77 91.41"),
    *_nine("cifar10", "resnet34", FINAL, "authors-logs", "93.52 92.94 94.28 93.88 94.75 94.57 94.44 93.07 95.20"),
    *_nine("cifar10", "resnet34", BEST, "authors-logs", "94.64 93.02 94.59 94.33 94.85 94.71 94.44 94.51 95.44"),
    *_nine("cifar10", "densenet121", FINAL, "authors-logs", "92.34 92.79 94.21 94.65 94.58 94.57 94.67 94.08 95.24"),
    *_nine("cifar10", "densenet121", BEST, "authors-logs", "94.50 93.35 94.55 94.81 94.58 94.76 94.81 95.10 95.51"),
    *_nine("cifar10", "vgg11", BEST, "rescience-logs", "89.95 88.54 89.00 89.13 90.63 90.73 90.18 90.11 91.57"),
    *_nine(
        *("cifar10", "resnet34", BEST, "rescience-logs", "94.72 93.38 94.59 94.56 95.12 94.88 94.75 94.51 95.26"),
        **{"AdamW": _COPIED, "Fromage": _COPIED},
    ),
    *_nine("cifar10", "densenet121", BEST, "rescience-logs", "94.61 93.43 94.41 94.73 95.10 95.18 94.97 95.05 95.67"),
    *_nine("cifar100", "vgg11", FINAL, "paper-figure", "62.5 56.2 57.2 58.5 65 66 63.3 63.3 67.4"),
    *_nine("cifar100", "resnet34", FINAL, "paper-figure", "72.8 71.6 72.8 74.4 76.2 75.8 75.3 74 77.2"),
    *_nine("cifar100", "densenet121", FINAL, "paper-figure", "74 72.5 75 76.5 77.3 76.5 76.5 76 78.3"),
    *_some("cifar100", "resnet34", BEST, "paper-figure", {"SGD": 77}, _PEAK),
    *_some("cifar100", "densenet121", BEST, "paper-figure", {"SGD": 78.3}, _PEAK),
    *_nine("cifar100", "vgg11", FINAL, "rescience-logs", "62.44 58.75 57.83 58.82 65.09 66.01 63.49 63.31 67.65"),
    *_nine("cifar100", "vgg11", BEST, "rescience-logs", "63.09 59.08 58.05 58.86 65.39 66.26 63.49 63.62 68.29"),
    *_nine("cifar100", "resnet34", FINAL, "rescience-logs", "72.60 71.29 72.47 74.02 75.91 76.63 75.53 74.52 -"),
    *_nine("cifar100", "resnet34", BEST, "rescience-logs", "76.35 73.20 72.98 74.33 76.02 76.67 75.74 75.11 -"),
    *_some(
        *("cifar100", "resnet34", BEST, "rescience", {"AdaBelief": 77.48}),
        note="Table 6, the best of 3 runs; the log of this run holds one epoch only",
    ),
    *_nine("cifar100", "densenet121", FINAL, "rescience-logs", "74.43 73.39 75.43 76.56 77.30 77.44 77.43 76.19 78.51"),
    *_nine("cifar100", "densenet121", BEST, "rescience-logs", "78.67 74.28 75.60 76.84 77.70 77.60 77.59 77.08 78.66"),
    *_some(
        *("cifar10", "resnet110", REPORTED, "apollo"),
        {"SGD": 93.94, "Adam": 93.74, "RAdam": 93.88, "AdaBelief": 94.03},
        note="learning rate decayed at milestones",
    ),
    *_some("cifar10", "vgg11", BEST, "eadam", {"Adam": 88.95, "RAdam": 89.54, "AdaBelief": 91.66, "EAdam": 91.45}),
    *_some("cifar10", "resnet18", BEST, "eadam", {"Adam": 92.88, "RAdam": 94.26, "AdaBelief": 94.85, "EAdam": 94.99}),
    *_some(
        "cifar10", "densenet121", BEST, "eadam", {"Adam": 93.55, "RAdam": 94.97, "AdaBelief": 95.69, "EAdam": 95.61}
    ),
    *_some("cifar100", "vgg11", BEST, "eadam", {"Adam": 55.33, "RAdam": 58.84, "AdaBelief": 67.88, "EAdam": 67.45}),
    *_some("cifar100", "resnet18", BEST, "eadam", {"Adam": 73.79, "RAdam": 73.56, "AdaBelief": 76.68, "EAdam": 76.29}),
    *_some(
        *("cifar100", "densenet121", BEST, "eadam"),
        {"Adam": 74.46, "RAdam": 76.96, "AdaBelief": 79.64, "EAdam": 78.77},
    ),
    *_some(
        *("imagenet", "resnet18", REPORTED, "paper-table", {"AdaBelief": 70.08, "MSVAG": 65.99}),
        note="the authors' own runs; AdaBelief with decoupled weight decay of 1e-2",
    ),
    *_some(
        *("imagenet", "resnet18", REPORTED, "padam"),
        {"SGD": 70.23, "AdaBound": 68.13, "Yogi": 68.23, "Adam": 63.79, "AdamW": 67.93},
        note=_QUOTED,
    ),
    *_some("imagenet", "resnet18", REPORTED, "radam", {"Adam": 66.54, "RAdam": 67.62}, _QUOTED),
    *_some("imagenet", "resnet18", REPORTED, "rescience", {"AdaBelief": 69.76, "MSVAG": 65.81}),
    *_some("imagenet", "resnet18", REPORTED, "rescience", {"AdaBelief": 67.76}, "weight decay of 1e-4, not 1e-2"),
    *_some(
        *("imagenet", "resnet18", REPORTED, "issue-11", {"AdamW": 69.73}),
        note="with AdaBelief's weight decay of 1e-2 and its schedule",
    ),
    *_some("imagenet", "resnet18", REPORTED, "issue-50", {"AdaBelief": 69.32}, "a user's run of the authors' code"),
    *_some("imagenet", "resnet18", REPORTED, "acprop", {"ACProp": 70.46}, "which repeats 70.08 for AdaBelief"),
    *_some(
        *("imagenet", "resnext50", REPORTED, "apollo"),
        {"SGD": 77.57, "Adam": 76.86, "RAdam": 76.91, "AdaBelief": 77.55},
        note="learning rate decayed at milestones; weight decay tuned, 1e-1 for all but SGD",
    ),
    *_some(
        *("imagenet", "resnext50", REPORTED, "apollo"),
        {"SGD": 78.26, "Adam": 77.54, "RAdam": 77.68, "AdaBelief": 78.22},
        note="cosine schedule; weight decay tuned, 1e-1 for all but SGD",
    ),
    *_some("imagenet", "efficientnet_b0", REPORTED, "timm-542", {"AdaBelief": 78.04}, '"around", says the source'),
    *_nine("wgan", "", FID_FINAL, "paper-boxes", "460 98 - 100 425 105.5 450 113 81"),
    *_nine("wgan-gp", "", FID_FINAL, "paper-boxes", "249 72 - 85 70.5 91 253 67.5 60"),
    *_some("wgan", "", FID_FINAL, "paper-boxes", {"RMSprop": 94.5}),
    *_some("wgan-gp", "", FID_FINAL, "paper-boxes", {"RMSprop": 107}),
    *_spread(
        *("wgan", FID_FINAL, "rescience"),
        {"AdaBelief": (82.85, 2.21), "Adam": (106.38, 9.76), "SGD": (459.0, 14.6)},
    ),
    *_spread(
        *("wgan-gp", FID_FINAL, "rescience"),
        {"AdaBelief": (75.37, 7.37), "Adam": (71.87, 0.83), "SGD": (237.0, 7.3)},
    ),
    *_spread("sngan", FID_BEST, "paper-fids", _SNGAN),
    *_spread("sngan", FID_BEST, "rescience", _SNGAN_AGAIN),
    *_some("sngan", "", FID_BEST, "authors-sngan", {"Adam": 13.25}, "PyTorch-StudioGAN's own log"),
    *_some("sngan", "", FID_BEST, "authors-sngan", {"AdaBelief": 12.87}, "eps 1e-12, without rectification"),
    *_some(
        *("sngan", "", FID_BEST, "authors-sngan", {"AdaBelief": 12.36}),
        note="eps 1e-16, with rectification; the README no longer has it",
    ),
    *_some(
        *("sngan", "", FID_BEST, "acprop", {"Adam": 13.14, "AdaBelief": 12.70}),
        note="the source does not say of which epoch",
    ),
    *_some("translation", "", BLEU, "authors-bleu", {"AdamW": 35.60, "RAdam": 35.51}),
    *_some(
        *("translation", "", BLEU, "authors-bleu", {"AdaBelief": 35.85}),
        note="the highest, 35.74 elsewhere in the README; on two GPUs, with twice the batch of its rivals",
    ),
    *_some(
        *("translation", "", BLEU, "authors-fairseq", {"AdamW": 35.02, "AdaBelief": 35.17}),
        note="post-norm, learning rate 5e-4, 50 epochs; AdamW is fairseq's Adam, AdaBelief is not rectified",
    ),
    *_some("translation", "", BLEU, "acprop", {"Adam": 34.66, "RAdam": 34.76, "AdaBelief": 35.17, "ACProp": 35.35}),
    *_nine(
        *("ptb-lstm", "1-layer", PERPLEXITY_FINAL, "authors-lstm-logs"),
        values="85.07 84.28 87.81 88.57 84.78 86.59 84.68 - 84.21",
    ),
    *_nine(
        *("ptb-lstm", "2-layer", PERPLEXITY_FINAL, "authors-lstm-logs"),
        values="67.45 67.27 94.91 90.00 67.53 71.33 68.83 - 66.29",
        **{"AdamW": f"{_SCRIPT_LR}; 189 epochs", "RAdam": _SCRIPT_LR},
    ),
    *_nine(
        *("ptb-lstm", "3-layer", PERPLEXITY_FINAL, "authors-lstm-logs"),
        values="63.77 64.28 104.50 93.11 63.60 67.51 65.06 - 61.25",
        **{"SGD": "147 epochs", "AdamW": f"{_SCRIPT_LR}; 161 epochs", "RAdam": _SCRIPT_LR},
    ),
    *_nine(
        *("ptb-lstm", "1-layer", PERPLEXITY_FINAL, "rescience-logs"),
        values="85.20 84.46 88.25 88.83 84.90 86.92 84.35 85.03 -",
    ),
    *_nine(
        *("ptb-lstm", "2-layer", PERPLEXITY_FINAL, "rescience-logs"),
        values="67.13 67.07 73.82 74.06 67.57 71.66 68.82 71.75 -",
    ),
    *_nine(
        *("ptb-lstm", "3-layer", PERPLEXITY_FINAL, "rescience-logs"),
        values="63.54 64.85 70.56 70.25 63.34 67.85 65.12 67.50 -",
    ),
    *_nine("ptb-lstm", "1-layer", PERPLEXITY_FINAL, "paper-perplexity", "- 84.8 87.9 88.4 84.5 88.4 - 85.2 84.7"),
    *_nine("ptb-lstm", "2-layer", PERPLEXITY_FINAL, "paper-perplexity", "- 67.3 73.1 73.5 - 73 - 72.2 66.5"),
    *_nine("ptb-lstm", "3-layer", PERPLEXITY_FINAL, "paper-perplexity", "- 64.3 69.8 69.8 - 69.2 - 68 61.8"),
    *_some(
        *("ptb-lstm", "1-layer", PERPLEXITY_FINAL, "eadam-logs"),
        {"Adam": 84.42, "RAdam": 88.30, "AdaBelief": 84.24, "EAdam": 84.46},
    ),
    *_some(
        *("ptb-lstm", "2-layer", PERPLEXITY_FINAL, "eadam-logs"),
        {"Adam": 67.36, "RAdam": 73.46, "AdaBelief": 66.58, "EAdam": 66.32},
    ),
    *_some(
        *("ptb-lstm", "3-layer", PERPLEXITY_FINAL, "eadam-logs"),
        {"Adam": 64.29, "RAdam": 69.98, "AdaBelief": 60.93, "EAdam": 61.13},
    ),
    *_some("keras-cnn", "", FINAL, "authors-notebook", {"AdaBelief": 97.91}, "after 200 steps on all training images"),
    *_some("rl-sac", "HalfCheetah-v5", RETURN_FINAL, "authors-sac", {"AdaBelief": 15_700, "Adam": 14_900}, _OLD_GAME),
    *_some("rl-sac", "Walker2d-v5", RETURN_FINAL, "authors-sac", {"Adam": 5500}, _OLD_GAME),
    *_some(
        *("rl-sac", "Walker2d-v5", RETURN_FINAL, "authors-sac", {"AdaBelief": 4500}),
        note=f"{_OLD_GAME}; AdaBelief's curve is at 5,600 to 5,800 before its last point",
    ),
    *_some(
        *("rl-atari", "SpaceInvaders", RETURN_FINAL, "authors-rainbow", {"AdaBelief": 417.5}),
        note="with Rainbow; AdaBelief's nine evaluations before this one are between 132 and 522",
    ),
    *_some(
        *("rl-atari", "SpaceInvaders", RETURN_FINAL, "authors-rainbow-figure", {"Adam": 410}),
        note="with Rainbow; Adam's nine evaluations before this one are between 138 and 417",
    ),
)


def published(task: str, model: str | None = None, optimizer: str | None = None) -> tuple[Published, ...]:
    """The published numbers for a task, for one model or all, for one optimizer or all; none where none are known.

    Args:
        task: As in `Published.task`.
        model: As in `Published.model`.
        optimizer: As in `Published.optimizer`.

    Example:
        >>> [(row.value, row.source) for row in published("cifar10", "vgg11", "AdaBelief") if row.metric == FINAL]
        [(91.17, 'authors-logs')]
    """
    return tuple(
        row
        for row in PUBLISHED
        if row.task == task and model in (None, row.model) and optimizer in (None, row.optimizer)
    )
