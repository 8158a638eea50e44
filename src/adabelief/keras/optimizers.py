"""The optimizers of the family in Keras: what each one's arguments are, and what it is."""

from __future__ import annotations

from typing import Any

import keras

from adabelief import rule
from adabelief.keras.base import Base
from adabelief.options import ALPHA, K, check


@keras.saving.register_keras_serializable(package="adabelief")
class AdaBelief(Base):
    r"""AdaBelief: Adam that divides by how far the gradient strays from its own mean.

    Per variable p with gradient g at step t, element by element (first line with `weight_decouple`, second without):

        p ← p − learning_rate · weight_decay · p
        g ← g + weight_decay · p
        m ← beta_1 · m + (1 − beta_1) · g
        s ← beta_2 · s + (1 − beta_2) · (g − m)² + epsilon
        p ← p − learning_rate · m/(1 − beta_1^t) / (√(s/(1 − beta_2^t)) + epsilon)

    At beta_1 = 0, where g − m would always be 0, the residual is taken against the previous mean. float16 and bfloat16
    variables are stepped in float32, with float32 state, and rounded once.

    **Choosing epsilon.** The epsilon that stays in s makes the denominator at least √(epsilon/(1−beta_2)) + epsilon:
    3.2e-3 for 1e-8, which is close to SGD, and 3.2e-7 for 1e-16, which is as adaptive as Adam. A good epsilon of Adam
    corresponds to its square here (`adabelief.eps_from_adam`). With epsilon = 0, a weight whose gradient has always
    been 0 becomes nan (0/0).

    **Clipping.** Use `clipnorm` or `global_clipnorm`. Under `clipvalue`, elements clamped to the same bound step after
    step look perfectly predictable, g − m tends to 0 and the step grows up to the limit that epsilon sets, or
    `max_update`.

    **Bounding the step.** Adam's step is hardly longer than the learning rate; AdaBelief's has no bound but that of
    epsilon (see `adabelief.rule`). `max_update` cuts m̂/denominator, element by element, to ±max_update before the
    learning rate: with 1, no weight moves by more than learning_rate in a step, decay apart. It holds for rectified
    steps, RAdam's factor included, and for those before them.

    **Gradients that are inf or nan.** `keras.optimizers.LossScaleOptimizer(AdaBelief(...))` leaves out the steps that
    have any.

    **Coming from adabelief-tf.** Its defaults, with a warm-up and decay over `total_steps`, are

        AdaBelief(WarmupDecay(1e-3, total_steps=10_000, min_lr=1e-5), epsilon=1e-14, weight_decouple=True, rectify=True)

    and its `sma_threshold` is `adaptive_from`.

    Args:
        learning_rate: A number, a `LearningRateSchedule`, or a function without arguments that returns a number.
        beta_1: Decay rate of the mean of g, in [0, 1).
        beta_2: Decay rate of the mean of (g − m)², in [0, 1).
        epsilon: Added to s at every step and to its root; see above.
        weight_decay: Decay rate, or a `LearningRateSchedule` of it. `exclude_from_weight_decay` exempts variables.
        amsgrad: Divide by the root of the largest s so far.
        weight_decouple: Decay p itself, by the factor 1 − learning_rate · weight_decay, instead of adding the decay to
            g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        rectify: Take rectified steps as RAdam does; with `amsgrad` they use the largest s as well.
        degenerated_to_sgd: With `rectify`, follow m in the first steps (5 at beta_2 = 0.999) instead of waiting.
        adaptive_from: With `rectify`, the least length N_t of the simple moving average for an adaptive step, at least
            4.
        max_update: Bound on every element of a step, as a multiple of the learning rate; None for none. See above.
        **kwargs: What every Keras optimizer takes: `clipnorm`, `clipvalue`, `global_clipnorm`, `use_ema`,
            `ema_momentum`, `ema_overwrite_frequency`, `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: If an argument is out of its range or not known.
        TypeError: For an argument of another package, such as adabelief-tf's; it says what to write instead.

    Source: Zhuang et al., NeurIPS 2020, https://arxiv.org/abs/2010.07468.

    Example:
        >>> import keras
        >>> weight = keras.Variable([1.0, -2.0])
        >>> optimizer = AdaBelief(learning_rate=0.1)
        >>> for _ in range(200):
        ...     optimizer.apply([2 * weight], [weight])  # the gradient of weight²
        >>> bool(keras.ops.max(keras.ops.abs(weight)) < 0.05)
        True
    """

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        weight_decay: Any = 0.0,
        amsgrad: bool = False,
        weight_decouple: bool = False,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        adaptive_from: float = rule.ADAPTIVE_FROM,
        max_update: float | None = None,
        **kwargs: Any,
    ) -> None:
        options = dict(
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            amsgrad=amsgrad,
            weight_decouple=weight_decouple,
            fixed_decay=fixed_decay,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            adaptive_from=adaptive_from,
            max_update=max_update,
        )
        super().__init__(learning_rate, weight_decay, options, **kwargs)


@keras.saving.register_keras_serializable(package="adabelief")
class AdaBeliefW(AdaBelief):
    r"""AdaBelief with decoupled weight decay, 1e-2 unless told otherwise: to AdaBelief what AdamW is to Adam.

        p ← p · (1 − learning_rate · weight_decay), then AdaBelief's step without decay

    Everything else, arguments, types and errors too, is as in `AdaBelief`; `weight_decouple` is always True.

    Source: Zhuang et al., NeurIPS 2020; Loshchilov and Hutter, "Decoupled Weight Decay Regularization", ICLR 2019.

    Example:
        >>> import keras
        >>> weight = keras.Variable([1.0])
        >>> AdaBeliefW(learning_rate=0.1, weight_decay=0.5).apply([keras.ops.zeros(1)], [weight])
        >>> weight.numpy().round(4)
        array([0.95], dtype=float32)
    """

    _frames = 4

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-16,
        weight_decay: Any = 1e-2,
        amsgrad: bool = False,
        *,
        fixed_decay: bool = False,
        rectify: bool = False,
        degenerated_to_sgd: bool = True,
        adaptive_from: float = rule.ADAPTIVE_FROM,
        max_update: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            beta_1,
            beta_2,
            epsilon,
            weight_decay,
            amsgrad,
            weight_decouple=True,
            fixed_decay=fixed_decay,
            rectify=rectify,
            degenerated_to_sgd=degenerated_to_sgd,
            adaptive_from=adaptive_from,
            max_update=max_update,
            **kwargs,
        )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, and the exclusions from weight decay where there are any."""
        config = super().get_config()
        del config["weight_decouple"]
        return config


@keras.saving.register_keras_serializable(package="adabelief")
class RangerAdaBelief(Base):
    r"""Ranger with AdaBelief: gradient centralization, rectified AdaBelief, and Lookahead.

        g ← g − mean of g over all dimensions but the outputs'      (gradient centralization)
        p ← the rectified, decoupled AdaBelief step with g          (see `AdaBelief`)
        in every k-th step: slow ← slow + alpha · (p − slow), p ← slow           (Lookahead)

    Defaults are those of ranger-adabelief 0.1.0, and so are the steps, but for that package's defects: decoupled decay
    is 1 − learning_rate · weight_decay in every step and never enters the momentum. As there, epsilon enters s only
    from the first adaptive step on. float16 and bfloat16 variables are stepped in float32, with float32 state.

    The mean is one for each output. Keras's kernels have their outputs in the last dimension, PyTorch's in the first:
    `gc_outputs_last=False` is for variables of that layout.

    Weights that are set in mid-run (`model.set_weights`, `load_weights`) are pulled back towards the old slow weights
    at the next synchronization, as Lookahead is defined; `reset_lookahead()` after it makes them the slow weights.

    Args:
        learning_rate: As in `AdaBelief`.
        alpha: Lookahead's share of the way from the slow weights to the fast ones, in [0, 1].
        k: Steps between two synchronizations of Lookahead, at least 1.
        adaptive_from: Least length N_t of the simple moving average for an adaptive step, at least 4.
        beta_1: Decay rate of the mean of g, in [0, 1).
        beta_2: Decay rate of the mean of (g − m)², in [0, 1).
        epsilon: Added to s at every adaptive step and to its root. The default makes the denominator at least 0.1,
            close to momentum SGD; 1e-12 is what the authors use.
        weight_decay: Decay rate, or a `LearningRateSchedule` of it.
        use_gc: Centralize gradients.
        gc_conv_only: Only those of at least 4 dimensions (2-D convolutions), instead of at least 2.
        gc_loc: Centralize the gradient (True), or else the step m / (√s + epsilon).
        gc_outputs_last: Average over all dimensions but the last (True), or else over all but the first.
        weight_decouple: Decay p itself instead of adding the decay to g.
        fixed_decay: With `weight_decouple`, the factor is 1 − weight_decay.
        amsgrad: Divide by the root of the largest s so far.
        degenerated_to_sgd: Follow m before steps are adaptive, instead of waiting.
        max_update: Bound on every element of a step, as a multiple of the learning rate, as in `AdaBelief`: Lookahead's
            way back to the slow weights apart. Steps are centralized (`gc_loc=False`) by the mean of the cut ones, so
            that no element carries its row along, and what is left is cut.
        **kwargs: As in `AdaBelief`.

    Raises:
        ValueError: If an argument is out of its range or not known.
        TypeError: For an argument of another package, such as adabelief-tf's; it says what to write instead.

    Source: ranger-adabelief 0.1.0; Zhuang et al., NeurIPS 2020; Zhang et al., "Lookahead Optimizer", NeurIPS 2019; Yong
    et al., "Gradient Centralization", ECCV 2020.

    Example:
        >>> import keras
        >>> weight = keras.Variable(keras.ops.ones((2, 3)))
        >>> gradient = keras.ops.full((2, 3), 7.0)  # the same for every input: nothing is left once centralized
        >>> RangerAdaBelief().apply([gradient], [weight])
        >>> bool(keras.ops.all(weight == 1))
        True
    """

    rectify, _eps_before_adaptive = True, False

    def __init__(
        self,
        learning_rate: Any = 1e-3,
        alpha: float = 0.5,
        k: int = 6,
        adaptive_from: float = rule.ADAPTIVE_FROM,
        beta_1: float = 0.95,
        beta_2: float = 0.999,
        epsilon: float = 1e-5,
        weight_decay: Any = 0.0,
        use_gc: bool = True,
        gc_conv_only: bool = False,
        gc_loc: bool = True,
        *,
        gc_outputs_last: bool = True,
        weight_decouple: bool = True,
        fixed_decay: bool = False,
        amsgrad: bool = False,
        degenerated_to_sgd: bool = True,
        max_update: float | None = None,
        **kwargs: Any,
    ) -> None:
        check("k", k, *K)
        check("alpha", alpha, *ALPHA)
        options = dict(
            alpha=alpha,
            k=k,
            adaptive_from=adaptive_from,
            beta_1=beta_1,
            beta_2=beta_2,
            epsilon=epsilon,
            use_gc=use_gc,
            gc_conv_only=gc_conv_only,
            gc_loc=gc_loc,
            gc_outputs_last=gc_outputs_last,
            weight_decouple=weight_decouple,
            fixed_decay=fixed_decay,
            amsgrad=amsgrad,
            degenerated_to_sgd=degenerated_to_sgd,
            max_update=max_update,
        )
        super().__init__(learning_rate, weight_decay, options, **kwargs)

    def reset_lookahead(self) -> None:
        """Makes the slow weights those that the variables have now: for weights that were set in mid-run."""
        if self.built:
            self._begin_slow_weights()
