"""Gradient release: parameters are stepped inside backward, batch by batch, and their gradients are freed."""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from adabelief.options import MIB, check
from adabelief.torch import checks, internals
from adabelief.torch.base import Base
from adabelief.torch.handle import Handle, unchanged

REMEDY = "call remove() of what release(optimizer) returned, and train without it"

GONE = (
    "Most parameters have been stepped with theirs inside it, so that a norm of all, a GradScaler, accumulation over "
    "several backwards and zero_grad before step come too late. Bound steps by max_update, change each gradient in a "
    "hook (Tensor.register_hook), train in bfloat16 without a GradScaler, call step() after every backward, or "
    f"{REMEDY}"
)


def release(optimizer: Optimizer, *, batch_mib: float = 32) -> Release:
    r"""Steps parameters inside backward and frees their gradients, so that these never exist all at once.

    As soon as the gradients that backward has finished fill a batch, their parameters are stepped. What is left, the
    last batch and parameters without a hook (unfrozen since the last step, or given a gradient by hand), is stepped by
    `optimizer.step()`, so that a training loop stays as it is. The step is element by element and every tensor counts
    its own steps, so that the weights are, to the bit, those without `release`. At most, gradients take

        batch_mib + the largest gradient              instead of          the sum of all gradients,

    for 7 · 10⁹ parameters in bfloat16 thus about 0.3 GiB instead of 13 GiB (an embedding of 128,000 × 4,096 is 1 GiB).
    Learning rate and all other options are read from `param_groups` at every batch: schedulers work as ever.

    It goes with every class, implementation, `state_bits`, `master_weight_bits`, with several groups, tied, frozen and
    unused parameters, with `step(closure)` and with FSDP2 (`fully_shard`), whose own accumulation of gradients
    (`set_requires_gradient_sync`) goes through. Where a compiled graph computes all gradients at once they are all
    there before the first is released.

    What needs all gradients at once cannot work, and is refused with a RuntimeError from the call that shows it:
    accumulation (a second gradient of a parameter before `step`), a GradScaler, clipping by the norm of all, or what
    else reads or changes gradients between backward and `step` (those of the last batch are stand-ins then, which
    raise), a `Probe`, DistributedDataParallel (which averages gradients later than they arrive), a compiled step.

    Args:
        optimizer: An AdaBelief, AdaBeliefW or RangerAdaBelief; its parameters that require a gradient get a hook each.
        batch_mib: Gradients, in MiB, that are stepped together; a larger one is stepped by itself.

    Returns:
        A handle; its `remove()` ends it, and so does leaving a `with` block.

    Raises:
        TypeError: For other optimizers.
        ValueError: If `batch_mib` is no number above 0, `skip_nonfinite` or `differentiable` is chosen, parameters are
            FSDP1's flat ones, or the optimizer is already released or offloaded.
        RuntimeError: If DistributedDataParallel has the parameters.

    Source: Lv et al., "Full Parameter Fine-tuning for Large Language Models with Limited Resources" (LOMO), ACL 2024;
    Warner, optimi's "gradient release", 2023.

    Example:
        >>> from adabelief import AdaBeliefW
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 1))
        >>> optimizer = AdaBeliefW(model.parameters(), lr=0.1)
        >>> handle = release(optimizer, batch_mib=1e-6)  # one tensor at a time
        >>> for _ in range(3):
        ...     model(torch.ones(2, 4)).sum().backward()
        ...     print([p.grad is not None for p in model.parameters()])  # the last one to arrive
        ...     optimizer.step()
        ...     optimizer.zero_grad()
        [True, False, False, False]
        [True, False, False, False]
        [True, False, False, False]
        >>> handle.remove()
    """
    check("batch_mib", batch_mib, *MIB)
    return Release(unchanged(optimizer), int(batch_mib * 2**20))


class ReleasedGradient(Tensor):
    """Stands for a gradient after backward: who reads all gradients then would read too few of them, and is told."""

    @staticmethod
    def __new__(cls, p: Tensor) -> ReleasedGradient:
        """A tensor like p, without memory."""
        gone: ReleasedGradient = Tensor._make_wrapper_subclass(
            cls, p.shape, strides=p.stride(), dtype=p.dtype, device=p.device
        )
        return gone

    @classmethod
    def __torch_dispatch__(cls, func: Any, *arguments: Any) -> Any:
        """Told by whichever operator comes first."""
        raise RuntimeError(f"release: {func} reads or changes gradients after backward. {GONE}")


class Release(Handle):
    """What `release` returns: the hooks, and what waits between two batches."""

    def __init__(self, optimizer: Base, batch_bytes: int) -> None:
        super().__init__(optimizer)
        self._batch_bytes = batch_bytes
        self._hooks: dict[Tensor, RemovableHandle] = {}
        self._groups: dict[int, int] = {}
        """The places of the parameters' groups, by the parameters' ids."""
        self._waiting: defaultdict[torch.device, list[Tensor]] = defaultdict(list)
        """Parameters whose gradients have arrived. Each device has a thread of backward, and so a batch, of its own."""
        self._filled: defaultdict[torch.device, int] = defaultdict(int)
        """Bytes of the gradients that wait."""
        self._arrived: set[int] = set()
        """The ids of the parameters whose gradients have arrived since the last step."""
        self._covered: list[tuple[Tensor, Tensor, ReleasedGradient]] = []
        """Parameters whose gradients wait for the step, once backward is over: with what stands for these meanwhile."""
        self._told = False
        """Whether this backward will call `_cover` at its end."""
        self._plans: defaultdict[int, dict[str, Any]] = defaultdict(dict)
        """What the optimizer keeps of each batch from one iteration to the next, by the id of its first parameter."""
        self._lock, self._looked = threading.Lock(), False
        self._attend()
        self._refuse_data_parallel()
        self._install()

    def remove(self) -> None:
        """Ends it; gradients that still wait are left to `optimizer.step()`. A second call does nothing."""
        for hook in self._hooks.values():
            hook.remove()
        self._hooks.clear()
        self._uncover()
        self._forget()
        super().remove()

    def _attend(self) -> None:
        """Notes the groups as they are now, after it has refused what they must not ask for."""
        for group in self.optimizer.param_groups:
            checks.refuse(
                group,
                ("skip_nonfinite", "differentiable"),
                "the gradients of all parameters until the step, and release frees them inside backward",
                ", or train without release",
            )
            if any(map(internals.is_flat, group["params"])):
                raise ValueError(
                    "params: FSDP1 reduces a flat parameter's gradient later than it arrives, so that it cannot be "
                    "released; use FSDP2 (fully_shard)"
                )
        groups = enumerate(self.optimizer.param_groups)
        self._groups = {id(p): i for i, group in groups for p in group["params"]}

    def _install(self) -> None:
        """Hooks on parameters that require a gradient and have none yet; they do not keep the optimizer alive."""
        ours = weakref.WeakMethod(self._arrive)

        def arrived(p: Tensor) -> None:
            arrive = ours()
            if arrive is not None:
                arrive(p)

        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad and p not in self._hooks:
                    self._hooks[p] = p.register_post_accumulate_grad_hook(arrived)
        self.optimizer._instead = self._step

    def _arrive(self, p: Tensor) -> None:
        """Takes a gradient that is complete, and steps the batch that it no longer fits into."""
        g = p.grad
        if g is None or id(p) not in self._groups:
            return
        with self._lock:
            self._refuse_scaler()
            if not self._arrived:
                self._attend()  # before anything is stepped by options that came since
            self._uncover()
            if not self._told:
                internals.after_backward(self._cover)
                self._told = True
            if not self._looked:
                self._refuse_data_parallel()
                self._looked = True
            if id(p) in self._arrived:
                raise RuntimeError(
                    f"release: a parameter of shape {tuple(p.shape)} got a second gradient before optimizer.step(), "
                    "and may have been stepped with the first one: gradients cannot be accumulated. Call step() after "
                    f"every backward, or {REMEDY}"
                )
            batch, size = self._waiting[p.device], _part(g).numel() * g.element_size()
            if batch and self._filled[p.device] + size > self._batch_bytes:
                self._step_batch(batch)
                self._filled[p.device] = 0
            batch.append(p)
            self._filled[p.device] += size
            self._arrived.add(id(p))

    def _step_batch(self, batch: list[Tensor]) -> None:
        """Steps parameters and frees their gradients."""
        groups = self._parts_of_groups((self._groups[id(p)], p) for p in batch)
        if batch[0].is_cuda:
            internals.check_graph_capture(self.optimizer)
        with torch.no_grad():
            self.optimizer._step_groups(groups, kept=self._plans[id(batch[0])])
        for p in batch:
            p.grad = None
        batch.clear()

    def _step(self) -> None:
        """What `optimizer.step()` does: the step of what backward left, after which the next iteration begins."""
        if torch.compiler.is_compiling():
            raise RuntimeError(
                "release: a compiled step does not know what backward has stepped; compile the model instead of the "
                f"step, or {REMEDY}"
            )
        self._refuse_scaler()
        if any(p.grad is not gone for p, _, gone in self._covered):
            raise RuntimeError(f"release: gradients were changed after backward. {GONE}")
        self._uncover()
        self._attend()
        self.optimizer._step_all()
        for batch in self._waiting.values():
            for p in batch:
                p.grad = None
        self._forget()
        self._install()

    def _forget(self) -> None:
        for kept in (self._filled, self._waiting, self._arrived):
            kept.clear()
        self._told = False

    def _cover(self) -> None:
        """Has whoever looks at the gradients after backward told that they are not all there."""
        with self._lock:
            self._told = False
            self._uncover()
            for p in itertools.chain.from_iterable(self._waiting.values()):
                if p.grad is not None:
                    self._covered.append((p, p.grad, ReleasedGradient(p)))
                    p.grad = self._covered[-1][-1]

    def _uncover(self) -> None:
        for p, g, gone in self._covered:
            if p.grad is gone:
                p.grad = g
        self._covered.clear()

    def _refuse_scaler(self) -> None:
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise RuntimeError(
                "release: a GradScaler unscales gradients after backward, when most parameters have been stepped with "
                "scaled ones; train in bfloat16 without a GradScaler (from the weights as they were before this "
                f"iteration), or {REMEDY}"
            )

    def _refuse_data_parallel(self) -> None:
        if internals.data_parallel([p for group in self.optimizer.param_groups for p in group["params"]]):
            raise RuntimeError(
                "release: DistributedDataParallel averages gradients after they have arrived, so that each process "
                "would step with its own. Use FSDP2 (fully_shard), or under DDP torch's own "
                "_apply_optimizer_in_backward; see docs/large-scale.md"
            )


def _part(g: Tensor) -> Tensor:
    return internals.part(g) if internals.is_distributed(g) else g
