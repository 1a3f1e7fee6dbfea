"""The loss of every domain in a trainer that sees several, one a step."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from torch import nn

from custom_components.training import DomainLosses


class Value(nn.Module):
    """A network that answers with the image, and learns nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def steps(*domains_and_losses: tuple[str, float]) -> list[dict]:
    return [
        {"image": torch.full((2, 1), loss), "label": torch.zeros(2, 1), "domain": [name] * 2} for name, loss in domains_and_losses
    ]


def trained(data: list[dict], domains: list[str], epochs: int = 1) -> list[dict[str, float]]:
    """Metrics after every epoch."""
    network = Value()
    seen: list[dict[str, float]] = []
    trainer = SupervisedTrainer(
        device="cpu",
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.0),
        loss_function=nn.L1Loss(),
        train_handlers=[DomainLosses(domains)],
        decollate=False,
    )
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: seen.append(dict(engine.state.metrics)))
    trainer.run()
    return seen


def test_each_domain_has_the_mean_of_its_own_steps() -> None:
    data = steps(("heart", 1.0), ("liver", 4.0), ("heart", 2.0), ("liver", 6.0), ("heart", 6.0))
    (metrics,) = trained(data, ["heart", "liver"])
    assert metrics == {"train_loss_heart": pytest.approx(3.0), "train_loss_liver": pytest.approx(5.0)}


def test_every_epoch_counts_anew_and_an_absent_domain_has_no_loss() -> None:
    first, second = trained(steps(("heart", 1.0), ("heart", 3.0)), ["heart", "liver"], epochs=2)
    assert first == second == {"train_loss_heart": pytest.approx(2.0)}
