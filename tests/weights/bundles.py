"""Tiny bundles of many domains, as bundles/universal_segmentation is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from custom_components.domain import Domain
from custom_components.networks import U2Net
from custom_components.weights import save_bundle_weights

REAL = Domain.from_file(Path(__file__).parents[2] / "bundles" / "hippocampus_mri_segmentation" / "configs" / "domain.json")
PLAN: dict[str, Any] = {"channels": (2, 3, 4), "deep_supervision": "heads"}


def domain(name: str, channels: int = 1, classes: int = 2, **changes: Any) -> Domain:
    """A task of three levels with [1, 3, 3] filters at the top, and patches of 4 × 8 × 8."""
    values = {
        "name": name,
        "organ": name.split("_")[0],
        "channels": [f"c{i}" for i in range(channels)],
        "labels": {"background": 0, **{f"class{i}": i for i in range(1, classes)}},
        "label_merges": {},
        "postprocessing": {},
        "patch_size": [4, 8, 8],
        "strides": [[1, 2, 2], [2, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
    }
    return Domain.from_dict({**REAL.model_dump(mode="json"), **values, **changes})


def randomised(network: U2Net) -> U2Net:
    """All of it drawn: norms start as 1 and 0, which would hide a tensor that is not copied."""
    with torch.no_grad():
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter)
    return network


def bundle_of(folder: Path, *domains: Domain, notes: dict[str, Any] | None = None, seed: int = 0) -> Path:
    """A bundle with ``models`` and ``configs/domains``; equal arguments give equal files."""
    torch.manual_seed(seed)
    network = randomised(U2Net({d.name: d.network for d in domains}, **PLAN))
    save_bundle_weights(network, folder / "models", notes)
    for one in domains:
        path = folder / "configs" / "domains" / f"{one.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(one.to_json())
    return folder
