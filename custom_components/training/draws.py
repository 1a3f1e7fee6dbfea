"""Which case and which random numbers belong to the n-th patch of a training.

Patch number ``n`` is a pure function of ``(seed, n)``. So a training that stops after any epoch continues as if it had
not stopped, no random state needs saving, and the number of worker processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from monai.data import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import DistributedSampler

__all__ = ["DrawSampler", "SeededDraws"]


class SeededDraws(TorchDataset):
    """Item ``n`` is a case of a reshuffled deck, transformed with random numbers seeded by ``(seed, n)``.

    Args:
        dataset: a MONAI dataset whose ``transform`` is a `monai.transforms.Compose`.
        seed: of the whole training.
    """

    def __init__(self, dataset: Dataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self._deck: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def case(self, draw: int) -> int:
        """Index of the case that patch number ``draw`` comes from: every case once in each round."""
        turn, position = divmod(draw, len(self.dataset))
        if self._deck is None or self._deck[0] != turn:
            self._deck = turn, np.random.default_rng((self.seed, turn)).permutation(len(self.dataset))
        return int(self._deck[1][position])

    def __getitem__(self, draw: int) -> Any:
        transform: Any = self.dataset.transform
        transform.set_random_state(seed=int(np.random.SeedSequence((self.seed, draw)).generate_state(1)[0]))
        return self.dataset[self.case(draw)]


class DrawSampler(DistributedSampler):
    """Numbers of the patches of one epoch, shared out between processes.

    MONAI's engines call ``set_epoch`` on every `DistributedSampler` when an epoch starts; that is all this one needs.

    Args:
        dataset: the `SeededDraws`.
        draws: patches per epoch and process.
        num_replicas: number of processes.
        rank: of this process.
    """

    def __init__(self, dataset: SeededDraws, draws: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.draws = draws
        self.epoch = 1  # ignite counts epochs from 1

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        first = (self.epoch - 1) * self.draws * self.num_replicas + self.rank
        return iter(range(first, first + self.draws * self.num_replicas, self.num_replicas))
