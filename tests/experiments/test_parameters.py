"""Parameter counts of the three set-ups, against the published code's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from custom_components.domain import Domain
from custom_components.experiments.parameters import count_parameters
from custom_components.networks import U2Net


def halvings(inputs: int, outputs: int, pools: tuple[int, int, int]) -> dict[str, Any]:
    strides = [[2 if level < n else 1 for n in pools] for level in range(max(pools))]
    return {"in_channels": inputs, "out_channels": outputs, "strides": strides, "kernel_sizes": [[3] * 3] * (max(pools) + 1)}


PUBLISHED = {  # halvings per axis as the published code has them
    "heart": halvings(1, 2, (4, 5, 5)),
    "liver": halvings(1, 2, (5, 5, 5)),
    "hippocampus": halvings(1, 3, (3, 3, 3)),
    "prostate": halvings(2, 3, (2, 5, 5)),
    "pancreas": halvings(1, 2, (4, 5, 5)),
}


def test_the_published_networks() -> None:
    counts = count_parameters(PUBLISHED)
    assert counts.independent == 134_508_692
    assert counts.dense == 6_577_460


def test_shared_and_own_make_the_whole() -> None:
    counts = count_parameters(PUBLISHED)
    assert counts.separable == counts.trunk + sum(counts.adapters.values())
    alone = U2Net({"heart": PUBLISHED["heart"]})
    assert counts.adapters["heart"] == sum(p.numel() for p in alone.domains["heart"].parameters())


@pytest.mark.parametrize(
    "names",
    [
        ("heart_mri", "liver_ct", "hippocampus_mri", "prostate_mri", "pancreas_ct"),
        ("hippocampus_mri", "abdomen_mri", "headneck_ct", "cardiac_mri"),
    ],
)
def test_the_shipped_domains_take_a_fortieth_at_most(repository: Path, names: tuple[str, ...]) -> None:
    files = {name: repository / "bundles" / f"{name}_segmentation" / "configs" / "domain.json" for name in names}
    counts = count_parameters({name: Domain.from_file(path).network for name, path in files.items()})
    assert counts.separable <= 0.025 * counts.independent
    assert max(counts.adapters.values()) <= 200_000
