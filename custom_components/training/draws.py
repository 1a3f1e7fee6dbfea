"""Which case and which random numbers belong to the n-th patch of a training.

Patch number ``n`` is a pure function of ``(seed, n)``. So a training that stops after any epoch continues as if it had
not stopped, no random state needs saving, and the number of worker processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from monai.data import Dataset
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import DistributedSampler

from custom_components.training.turns import Turns

__all__ = ["DomainBatches", "DrawSampler", "SeededDraws"]


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


class DomainBatches(TorchDataset):
    """Item ``n`` is the batch of step ``n``: patches of the one domain whose turn it is, as a list.

    A domain's patches are numbered by themselves. So a domain sees the same patches in the same order alone, with others,
    and under any order of turns.

    Args:
        datasets: domain name to MONAI dataset whose ``transform`` is a `monai.transforms.Compose`.
        batch_sizes: patches per step and process, of each domain.
        turns: whose turn each step is.
        seed: of the whole training.
        num_replicas: number of processes, which share each step's patches out between them.
        rank: of this process.
    """

    def __init__(
        self,
        datasets: Mapping[str, Dataset],
        batch_sizes: Sequence[int],
        turns: Turns,
        seed: int,
        num_replicas: int = 1,
        rank: int = 0,
    ) -> None:
        if len(batch_sizes) != len(datasets):
            raise ValueError(f"{len(datasets)} domains need as many batch sizes, got {list(batch_sizes)}")
        self.draws = [SeededDraws(dataset, seed) for dataset in datasets.values()]
        self.batch_sizes = list(batch_sizes)
        self.turns = turns
        self.num_replicas = num_replicas
        self.rank = rank

    def __len__(self) -> int:
        return sum(len(draws) for draws in self.draws)

    def __getitem__(self, step: int) -> list[Any]:
        domain, turn = self.turns.turn(step)
        size = self.batch_sizes[domain]
        first = (turn * size) * self.num_replicas + self.rank
        return [self.draws[domain][first + i * self.num_replicas] for i in range(size)]


class DrawSampler(DistributedSampler):
    """Numbers of the patches of one epoch, shared out between processes.

    MONAI's engines call ``set_epoch`` on every `DistributedSampler` when an epoch starts; that is all this one needs.

    Args:
        dataset: `SeededDraws`, or `DomainBatches` with one replica: its processes all take the same steps.
        draws: patches (or steps) per epoch and process.
        num_replicas: number of processes.
        rank: of this process.
    """

    def __init__(self, dataset: SeededDraws | DomainBatches, draws: int, num_replicas: int = 1, rank: int = 0) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=False)
        self.draws = draws
        self.epoch = 1  # ignite counts epochs from 1

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        first = (self.epoch - 1) * self.draws * self.num_replicas + self.rank
        return iter(range(first, first + self.draws * self.num_replicas, self.num_replicas))
