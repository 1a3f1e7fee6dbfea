"""Small handlers of the training engine: seeds, gradient clipping, plateau schedule, progress."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
import torch
from ignite.engine import Events
from ignite.handlers import ProgressBar
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

__all__ = ["ClipGradients", "EpochSeed", "PlateauOfAverage", "Progress"]


class EpochSeed:
    """Seed torch, NumPy and Python from ``seed`` and the epoch whenever an epoch starts.

    Patches have seeds of their own (`SeededDraws`); this covers the rest, such as dropout.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Workflow) -> None:
        value = int(np.random.SeedSequence((self.seed, engine.state.epoch)).generate_state(1)[0])
        random.seed(value)
        np.random.seed(value)  # noqa: NPY002 (libraries draw from the global state)
        torch.manual_seed(value)


class ClipGradients:
    """Scale the gradients down to a total norm of at most ``max_norm`` before every optimizer step.

    Args:
        network: whose gradients.
        max_norm: Euclidean norm over all parameters; None leaves the gradients.
    """

    def __init__(self, network: nn.Module, max_norm: float | None) -> None:
        self.network = network
        self.max_norm = max_norm

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        if self.max_norm is None:
            return
        if getattr(engine, "scaler", None) is not None:
            engine.scaler.unscale_(engine.optimizer)  # else the norm is that of the scaled loss
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


class PlateauOfAverage(ReduceLROnPlateau):
    """Lower the rate when the moving average of a value stops falling, as the original's schedule does.

    A MONAI `LrScheduleHandler` with ``epoch_level`` and a ``step_transform`` that gives the value drives it.

    Args:
        optimizer: whose rates.
        window: epochs averaged over.
        threshold: fall of the average that counts as one, absolute.
        patience: epochs without such a fall before the rate is lowered.
        factor: on the rate.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, window: int = 20, threshold: float = 1e-4, patience: int = 20, factor: float = 0.5
    ) -> None:
        self.values: list[float] = []
        self.window = window
        super().__init__(optimizer, factor=factor, patience=patience, threshold=threshold, threshold_mode="abs")

    def step(self, metrics: Any, epoch: int | None = None) -> None:  # type: ignore[override]
        recent = deque([*self.values, float(metrics)], maxlen=self.window)
        self.values = list(recent)
        super().step(sum(recent) / len(recent))


class Progress:
    """A tqdm bar per epoch with the loss of the step; silent where the output is not a terminal.

    Args:
        description: what runs.
        loss: whether the engine's output has a loss to show.
    """

    def __init__(self, description: str, loss: bool = True) -> None:
        self.loss = loss
        self.bar = ProgressBar(desc=description, disable=None)

    def attach(self, engine: Workflow) -> None:
        self.bar.attach(engine, output_transform=_loss if self.loss else None)


def _loss(output: Any) -> dict[str, float]:
    item = output[0] if isinstance(output, list) else output
    return {"loss": float(item["loss"].detach())}
