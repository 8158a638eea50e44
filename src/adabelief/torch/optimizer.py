"""AdaBelief and AdaBeliefW for PyTorch."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim.optimizer import ParamsT

from adabelief.torch.base import Base


class AdaBelief(Base):
    r"""AdaBelief: Adam that divides by how far the gradient strays from its own mean.

    Per parameter p with gradient g at step t, element by element (first line with `weight_decouple`, second without):

        p ← p − lr · weight_decay · p
        g ← g + weight_decay · p
        m ← beta1 · m + (1 − beta1) · g
        s ← beta2 · s + (1 − beta2) · (g − m)² + eps
        p ← p − lr · m/(1 − beta1^t) / (√(s/(1 − beta2^t)) + eps)

    At beta1 = 0, where g − m would always be 0, the residual is taken against the previous mean. fp16 and bf16
    parameters are stepped in float32, with float32 state, and rounded once; complex ones as pairs of reals. `p.grad` is
    only read.

    **Choosing eps.** The eps that stays in s makes the denominator at least √(eps/(1−beta2)) + eps: 3.2e-3 for 1e-8,
    which is close to SGD, and 3.2e-7 for 1e-16, which is as adaptive as Adam. Take 1e-8 where SGD beats Adam (image
    classification), 1e-12 to 1e-16 where Adam beats SGD (Transformers, GANs, RNNs); a good eps of Adam corresponds to
    its square here (`adabelief.eps_from_adam`). `adabelief.recommended(task)` has published settings. With eps = 0, a
    weight whose gradient has always been 0 becomes nan (0/0).

    **Clipping.** Clip by norm, not by value: elements clamped to a bound step after step look perfectly predictable,
    g − m tends to 0 and the step grows up to the limit that eps sets, or `max_update`.

    **Bounding the step.** Adam's step is hardly longer than lr, AdaBelief's has no bound but that of eps. With b =
    beta1 = beta2, V the mean of (g − m_old)² and x = m/√V, Adam's v is m² + b·V and AdaBelief's s is b²·V: so Adam
    steps x/√(x² + b), less than 1, and AdaBelief x/b, far where the gradient is predictable. `max_update` cuts
    m̂/denominator, element by element, to ±max_update before the learning rate: with 1, no weight moves by more than lr
    in a step, decay apart. It holds for rectified steps, RAdam's factor included, and for those before them.

    Args:
        params: Parameters, named parameters, or dicts of parameter groups; every option below may differ per group.
        lr: Learning rate; a tensor of one element too (with it, torch.compile never recompiles when it changes).
        betas: Decay rates of the mean of g and of the mean of (g − m)², each in [0, 1): any pair of numbers, or of
            tensors of one element. A captured CUDA graph follows tensors that are written to, lr, betas and
            weight_decay alike; a schedule that puts a number in a tensor's place ends that for its graph.
        eps: Added to s at every step and to its root; see above.
        weight_decay: Decay rate; a tensor of one element too.
        amsgrad: Divide by the root of the largest s so far.
        weight_decouple: Decay p itself, by the factor 1 − lr · weight_decay, instead of adding the decay to g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay, whatever lr is; at lr = 0 nothing moves.
        rectify: Take rectified steps as RAdam does; with `amsgrad` they use the largest s as well.
        degenerated_to_sgd: With `rectify`, follow m in the first steps (5 at beta2 = 0.999) instead of waiting.
        max_update: Bound on every element of a step, as a multiple of lr; None for none. See above.
        skip_nonfinite: Leave a step out where gradients hold inf or nan: weights, state and step numbers stay as they
            were, and `skipped` counts it. One decision for all groups that ask, and for all processes that share
            distributed gradients (DTensor); it costs one more read of the gradients. With `capturable` on a GPU, and
            inside torch.compile, it is made there; elsewhere the host waits for it. Steps that a GradScaler leaves to
            the optimizer (`fused=True`) and finds inf in are skipped and counted too; without, it does not call `step`.
        foreach: Update lists of tensors at a time (True), or one tensor after another (False); by default, lists where
            no kernel serves, but for tensors of other packages' types. The lists are bucketed: the one temporary copy
            is of a bucket, not of the model; of one tensor where it goes one by one.
        maximize: Climb.
        capturable: Keep step counts on the parameters' device, for CUDA graphs, and to let the device decide where a
            GradScaler skips a step.
        differentiable: Let autograd record the step; the state is replaced instead of changed in place.
        fused: Step through a kernel (True), which takes the whole list at once, or without (False). By default, unless
            `foreach` or `differentiable` is chosen, CPU tensors go through the one in C where it was compiled and CUDA
            tensors through the one in Triton. That one serves ROCm tensors too, but has not been run on any: there it
            is for those who ask with True. What a kernel does not take (a gradient whose layout is not that of its
            parameter) goes through foreach. With True the GradScaler leaves unscaling to the step, as with torch's own.
        state_bits: In how many bits m and s are kept, 32, 16 or 8, or a pair for the two, as in `(16, 8)`; the largest
            s goes with s. 8 bits are codes with an exponent for every 256 neighbours within a row (2.01 bytes a
            parameter for both instead of 8), 16 are bf16; both are rounded by a dither that depends on element and step
            alone (`adabelief.codes`), so that small changes are not lost. The step itself is taken in float32. Where a
            number is inf or nan, all of its block reads as nan in the next step. Tensors of fewer than 4,096 elements,
            with rows of fewer than 64, in double precision or complex keep their state as it is, and so do those of one
            dimension or cut by columns that are sharded. FSDP1's flat pieces are refused. Checkpoints of all kinds load
            into each other: this optimizer's option decides (but see docs/large-scale.md for torch.distributed's).
        master_weight_bits: For parameters in bfloat16: keep 24 or 32 bits of each weight, of which the parameter itself
            is the nearest bfloat16 (ties away from 0), the lower 8 or 16 in the state (`weight_rest`). 32 bits are
            float32's own numbers, 24 are rounded by the dither. What someone else writes into a weight between steps
            stands, but the rest of the one before, at most half a unit of bf16, stays beside it: no step can tell a new
            weight from one that is resumed, and so model and optimizer load in either order. To drop it:
            `optimizer.state[p]["weight_rest"].zero_()`. Collectives know no int16: a full (unsharded) state_dict of
            distributed tensors needs 24.
        stochastic_rounding: For parameters in bfloat16: round weights by the dither instead of to the nearest, so that
            steps below half a unit count on average, without any state.

    Raises:
        ValueError: If an option, of the optimizer or of a group, is out of its range.
        ValueError: For a parameter that is a lazy conjugate, from the constructor, `add_param_group` and `step`.
        RuntimeError: From `step`, for sparse gradients.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        >>> optimizer = AdaBelief([weight], lr=0.1)
        >>> for _ in range(200):
        ...     optimizer.zero_grad()
        ...     loss = (weight**2).sum()
        ...     loss.backward()
        ...     optimizer.step()
        >>> loss.item() < 1e-3
        True
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float | Tensor = 0.0,
        amsgrad: bool = False,
        weight_decouple: bool = False,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        *,
        max_update: float | None = None,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_bits: int | tuple[int, int] = 32,
        master_weight_bits: int | None = None,
        stochastic_rounding: bool = False,
    ) -> None:
        super().__init__(
            params,
            dict(
                lr=lr,
                betas=betas,
                eps=eps,
                weight_decay=weight_decay,
                amsgrad=amsgrad,
                weight_decouple=weight_decouple,
                fixed_decay=fixed_decay,
                rectify=rectify,
                degenerated_to_sgd=degenerated_to_sgd,
                max_update=max_update,
                skip_nonfinite=skip_nonfinite,
                foreach=foreach,
                maximize=maximize,
                capturable=capturable,
                differentiable=differentiable,
                fused=fused,
                state_bits=state_bits,
                master_weight_bits=master_weight_bits,
                stochastic_rounding=stochastic_rounding,
            ),
        )


class AdaBeliefW(AdaBelief):
    r"""AdaBelief with decoupled weight decay, 1e-2 unless told otherwise: to AdaBelief what AdamW is to Adam.

        p ← p · (1 − lr · weight_decay), then AdaBelief's step without decay

    Everything else, arguments and errors too, is as in `AdaBelief`; `weight_decouple` is always True.

    Source: Zhuang et al., NeurIPS 2020; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Example:
        >>> import torch
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.zeros(1)
        >>> AdaBeliefW([weight], lr=0.1, weight_decay=0.5).step()
        >>> round(weight.item(), 4)
        0.95
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-16,
        weight_decay: float | Tensor = 1e-2,
        amsgrad: bool = False,
        *,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        max_update: float | None = None,
        skip_nonfinite: bool = False,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        state_bits: int | tuple[int, int] = 32,
        master_weight_bits: int | None = None,
        stochastic_rounding: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas,
            eps,
            weight_decay,
            amsgrad,
            weight_decouple=True,
            fixed_decay=fixed_decay,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            max_update=max_update,
            skip_nonfinite=skip_nonfinite,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            state_bits=state_bits,
            master_weight_bits=master_weight_bits,
            stochastic_rounding=stochastic_rounding,
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:  # also where the checkpoint is that of an AdaBelief with coupled decay
            group["weight_decouple"] = True
