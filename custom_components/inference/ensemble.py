"""Several networks of one domain as one: what cross-validation leaves behind, used together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """The logarithm of the networks' mean softmax probability, which serves as logits.

    Args:
        networks: (N, C, Z, Y, X) → logits (N, K, Z, Y, X), each.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        if not networks:
            raise ValueError("an ensemble needs at least one network")
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.softmax(self.networks[0](x).float(), dim=1)
        for network in self.networks[1:]:
            total += torch.softmax(network(x).float(), dim=1)
        return total.div_(len(self.networks)).clamp_(min=torch.finfo(total.dtype).tiny).log_()
