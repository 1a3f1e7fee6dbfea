"""Patch number n depends on the seed and n alone."""

from __future__ import annotations

import torch
from monai.data import CacheDataset, DataLoader
from monai.transforms import Compose, Lambda, RandGaussianNoise

from custom_components.training import DrawSampler, SeededDraws


def draws(cases: int = 7, seed: int = 0) -> SeededDraws:
    transform = Compose([Lambda(lambda i: torch.full((1, 4), float(i)), track_meta=False), RandGaussianNoise(prob=1.0, std=0.1)])
    return SeededDraws(CacheDataset(list(range(cases)), transform, progress=False, copy_cache=False), seed)


def test_every_case_comes_once_in_each_round_and_rounds_differ() -> None:
    deck = draws(7)
    rounds = [[deck.case(n) for n in range(7 * r, 7 * r + 7)] for r in range(4)]
    assert all(sorted(r) == list(range(7)) for r in rounds)
    assert len({tuple(r) for r in rounds}) == 4


def test_a_draw_does_not_depend_on_those_before_it() -> None:
    forward, backward = draws(), draws()
    there = [forward[n] for n in range(12)]
    back = [backward[n] for n in reversed(range(12))][::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back, strict=True))
    assert not torch.equal(there[0] - there[0].round(), there[7] - there[7].round())


def test_another_seed_gives_other_draws() -> None:
    assert [draws(seed=0).case(n) for n in range(7)] != [draws(seed=1).case(n) for n in range(7)]


def test_worker_processes_change_nothing() -> None:
    batches = []
    for workers in (0, 2):
        deck = draws()
        loader = DataLoader(deck, sampler=DrawSampler(deck, 8), batch_size=2, num_workers=workers)
        batches.append(torch.cat(list(loader)))
    assert torch.equal(*batches)


def test_epochs_continue_each_other() -> None:
    deck = draws()
    sampler = DrawSampler(deck, 5)
    numbers = []
    for epoch in (1, 2, 3):
        sampler.set_epoch(epoch)
        assert len(sampler) == 5
        numbers += list(sampler)
    assert numbers == list(range(15))


def test_processes_share_the_draws_of_an_epoch() -> None:
    deck = draws()
    parts = []
    for rank in range(3):
        sampler = DrawSampler(deck, 4, num_replicas=3, rank=rank)
        sampler.set_epoch(2)
        parts.append(list(sampler))
    assert sorted(n for part in parts for n in part) == list(range(12, 24))
