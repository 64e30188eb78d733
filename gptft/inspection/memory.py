"""How much memory a training step takes, found without taking it.

The step is run on tensors that are but shapes (PyTorch's FakeTensorMode): the same operations, precision, optimizer and
accumulation as in training, on any architecture, and every storage is counted from its making to its end.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import Parameter, functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gptft.models.kernels import cross_entropy_sum, use_fast_kernels
from gptft.models.precision import autocast, training_dtype

if TYPE_CHECKING:
    from transformers import TrainingArguments


class _Tracker(TorchDispatchMode):
    """Counts the bytes of all storages that operations make, while they live."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                self.add(value)
        return made

    def add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self.seen:
            self.seen.add(storage)
            self.live += storage.nbytes()
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._end, storage.nbytes())

    def _end(self, size: int) -> None:
        self.live -= size


@dataclass(frozen=True)
class StepShape:
    """The size of one batch."""

    rows: int
    width: int
    """Tokens of its longest row."""
    read: int
    """Positions whose logits are computed; 0: the logits of labels, by a head for sequences."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    """All the rest: what the backward pass needs, logits and their gradients among it."""

    @property
    def total(self) -> int:
        """Their sum."""
        return self.weights + self.gradients + self.optimizer + self.activations


class StepSimulator:
    """Runs steps of a model whose tensors are shapes.

    Args:
        model: on the device `meta`; its tensors are replaced, and it is put in training mode.
        arguments: of the training: precision, optimizer, accumulation, checkpointing of activations.
        labels: whether the task is classification.
    """

    def __init__(self, model: Any, arguments: TrainingArguments, labels: bool = False) -> None:
        from transformers import Trainer

        self.labels = labels
        self.model, self.arguments, self.mode = model.train(), arguments, FakeTensorMode(allow_non_fake_inputs=True)
        use_fast_kernels(model)
        with self.mode:
            _give_shapes(model, arguments.device)
        # Newer versions of transformers call it activation checkpointing.
        for name in ("activation_checkpointing", "gradient_checkpointing"):
            if getattr(arguments, name, None):
                getattr(model, f"{name}_enable")(getattr(arguments, f"{name}_kwargs"))
                break
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(arguments)
        self.optimizer: Any = kind(self.trained, **settings)
        self.tracker = _Tracker()
        with self.mode, self.tracker:
            for tensor in (*model.parameters(), *model.buffers()):
                self.tracker.add(tensor)
            self.weights = self.tracker.live
            # The optimizer's state comes with its first step.
            self._backward(StepShape(1, 2, 1))
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.state = sum(
                value.nbytes
                for state in self.optimizer.state.values()
                for value in state.values()
                if isinstance(value, torch.Tensor)
            )

    def peak(self, shape: StepShape) -> StepMemory:
        """The most that is held while a batch of that size is learned."""
        with self.mode, self.tracker:
            self.tracker.peak = self.tracker.live
            # With accumulation there are gradients already when a batch comes.
            for _ in range(min(self.arguments.gradient_accumulation_steps, 2)):
                self._backward(shape)
            self.optimizer.step()
            self.optimizer.zero_grad()
        gradients = sum(parameter.numel() * parameter.element_size() for parameter in self.trained)
        rest = max(self.tracker.peak - self.weights - self.state - gradients, 0)
        return StepMemory(self.weights, gradients, self.state, rest)

    def _backward(self, shape: StepShape) -> None:
        device = next(self.model.parameters()).device
        ids = torch.zeros(shape.rows, shape.width, dtype=torch.long, device=device)
        generates = self.model.can_generate()
        each = max(1, -(-shape.read // shape.rows))
        options = {"logits_to_keep": ids.new_zeros(shape.rows, each)} if generates else {}
        with autocast(device, training_dtype(self.arguments)):
            logits = self.model(input_ids=ids, use_cache=False, **options).logits
        # As Accelerate gives them where weights are spread over processes; elsewhere this is a margin.
        logits = logits.float().flatten(0, -2)
        smoothing = self.arguments.label_smoothing_factor
        targets = ids.new_zeros(len(logits))
        if self.labels:
            # A classifier takes the logits of its text out of those of all positions.
            logits = logits.index_select(0, targets)
            functional.cross_entropy(logits, targets, label_smoothing=smoothing).backward()
        else:
            cross_entropy_sum(logits, targets, smoothing).backward()


def _give_shapes(model: Any, device: torch.device) -> None:
    """Replace tensors on `meta` by shapes that know the device they stand for; what is shared stays shared."""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, old in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if id(old) not in made:
                tensor = torch.empty(old.shape, dtype=old.dtype, device=device)
                made[id(old)] = Parameter(tensor, old.requires_grad) if isinstance(old, Parameter) else tensor
            setattr(module, name, made[id(old)])
