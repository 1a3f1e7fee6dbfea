"""Losses: the original's Lovász-Softmax plus focal, and the weighting of deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

__all__ = ["DeepSupervised", "FocalLovaszLoss", "focal", "lovasz_softmax"]


def lovasz_softmax(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Lovász extension of the Jaccard loss over all voxels of the batch, mean over all classes, present or not.

    Berman et al., The Lovász-Softmax loss, CVPR 2018, algorithm 1 and eq. 9.

    Args:
        logits: (N, K, ...).
        target: (N, ...), class indices.

    Returns:
        A scalar.
    """
    probabilities = logits.softmax(1).transpose(0, 1).flatten(1)  # (K, voxels)
    losses = []
    for index, probability in enumerate(probabilities):
        truth = (target == index).flatten().to(probability.dtype)
        errors, order = (truth - probability).abs().sort(descending=True)
        losses.append(errors @ _lovasz_gradient(truth[order]))
    return torch.stack(losses).mean()


def focal(logits: torch.Tensor, target: torch.Tensor, gamma: float = 2.0) -> torch.Tensor:
    """Mean over voxels of -(1 - p)^gamma log p, p the softmax of the true class (Lin et al., ICCV 2017, eq. 4).

    As in the original, the factor (1 - p)^gamma is a weight: no gradient goes through it.

    Args:
        logits: (N, K, ...).
        target: (N, ...), class indices.
        gamma: focusing exponent.
    """
    log_p = F.log_softmax(logits, 1).gather(1, target.long().unsqueeze(1))
    return -((1 - log_p.detach().exp()) ** gamma * log_p).mean()


class FocalLovaszLoss(nn.Module):
    """`lovasz_softmax` + `focal`, as the original sums them.

    Args:
        gamma: focusing exponent of the focal part.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Args: logits (N, K, Z, Y, X); target (N, 1, Z, Y, X), class indices."""
        logits, indices = logits.float(), target[:, 0]  # half precision is too coarse for the sorted sums
        return lovasz_softmax(logits, indices) + focal(logits, indices, self.gamma)


class DeepSupervised(nn.Module):
    """A loss over the list of logits that a deeply supervised network gives in training.

    Args:
        loss: takes logits (N, K, Z, Y, X) and target (N, 1, Z, Y, X).
        weights: of the levels, full resolution first; levels beyond them do not count. The weights of the levels that
            are there are normalised to sum to 1, so that the learning rate keeps its meaning.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] = (1.0, 0.5, 0.25)) -> None:
        super().__init__()
        if not weights or min(weights) < 0 or weights[0] <= 0:
            raise ValueError(f"weights: need a positive first weight and none below 0, got {list(weights)}")
        self.loss = loss
        self.weights = tuple(float(w) for w in weights)

    def forward(self, outputs: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor) -> torch.Tensor:
        """Args: outputs: logits, or a list of them, full resolution first; target (N, 1, Z, Y, X), class indices."""
        if isinstance(outputs, torch.Tensor):
            return self.loss(outputs, target)
        weights = self.weights[: len(outputs)]
        total = outputs[0].new_zeros((), dtype=torch.float32)
        for weight, logits in zip(weights, outputs, strict=False):
            if weight:
                total = total + weight / sum(weights) * self.loss(logits, _at_size(target, logits.shape[2:]))
        return total


def _at_size(target: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    if tuple(target.shape[2:]) == tuple(size):
        return target
    return F.interpolate(target.float(), size=tuple(size), mode="nearest-exact").to(target.dtype)


def _lovasz_gradient(truth: torch.Tensor) -> torch.Tensor:
    """Gradient of the Lovász extension at errors sorted descending: the increments of the Jaccard loss."""
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - (truth.sum() - truth.cumsum(0)) / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
