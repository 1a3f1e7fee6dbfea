"""Training loss of every domain, so that one that lags behind the others is seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ignite.engine import Events
from ignite.exceptions import NotComputableError
from ignite.metrics import Average
from monai.engines.workflow import Workflow

__all__ = ["DomainLosses"]


class DomainLosses:
    """Put ``train_loss_<domain>``, the epoch's mean loss of each domain, into the trainer's metrics.

    The mean over all steps hides a domain that learns nothing beside others. List this handler before those that log.
    Where several processes train, the means are over all of them.

    Args:
        domains: names, in one order in all processes.
    """

    def __init__(self, domains: Iterable[str]) -> None:
        self.means = {name: Average() for name in domains}

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.EPOCH_STARTED, self.reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.add)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.show)

    def reset(self, _: Any = None) -> None:
        for mean in self.means.values():
            mean.reset()

    def add(self, engine: Any) -> None:
        """Count the loss of a step for the domain of its batch, which is one for all its images."""
        domain = engine.state.batch["domain"]
        self.means[domain if isinstance(domain, str) else domain[0]].update(engine.state.output["loss"].detach())

    def show(self, engine: Any) -> None:
        """Write the means; a domain that had no step in this epoch keeps none."""
        for name, mean in self.means.items():
            engine.state.metrics.pop(f"train_loss_{name}", None)
            try:
                engine.state.metrics[f"train_loss_{name}"] = float(mean.compute())
            except NotComputableError:
                continue
