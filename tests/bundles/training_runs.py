"""Runs of a bundle's training on phantoms, small enough for a test."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigWorkflow

from custom_components.domain import Domain

SMALL: dict[str, Any] = {
    "network_def#channels": [4, 4, 8, 8],
    "device": "$torch.device('cpu')",
    "steps_per_epoch": 3,
    "max_epochs": 2,
    "val_interval": 1,
}


def small_domain(bundle: Path, folder: Path, **changes: Any) -> Path:
    """The bundle's domain with a patch of 24 × 32 × 24, and other changes."""
    values = json.loads((bundle / "configs" / "domain.json").read_text())
    values.update({"patch_size": [24, 32, 24], **changes})
    path = folder / "domain.json"
    path.write_text(json.dumps(values))
    return path


def overrides(bundle: Path, data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """What makes a run small and keeps it within ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    places = {
        "bundle_root": str(bundle),
        "domain#path": str(small_domain(bundle, folder)),
        "dataset_dir": str(data),
        "ckpt_dir": str(folder / "models"),
        "output_dir": str(folder / "out"),
    }
    return {**SMALL, **places, **more}


def smallest_patch(domain: Domain) -> tuple[int, int, int]:
    """What leaves the deepest level two voxels, the fewest that an instance norm takes."""
    factors = [math.prod(stride[axis] for stride in domain.strides) for axis in range(3)]
    return factors[0], factors[1], 2 * factors[2]


def tiny(bundle: Path, data: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """Two epochs of one step of any bundle: its channels, labels and strides, on the smallest patch and few filters."""
    domain = Domain.from_file(bundle / "configs" / "domain.json")
    values = overrides(bundle, data, folder, steps_per_epoch=1, batch_size=2, **more)
    values["domain#path"] = str(small_domain(bundle, folder, patch_size=list(smallest_patch(domain))))
    values["network_def#channels"] = [4, 4, 6, 6, 8, 8][: len(domain.strides) + 1]
    return values


def workflow(bundle: Path, files: Sequence[str], values: dict[str, Any], kind: str = "train") -> ConfigWorkflow:
    """The workflow, initialized."""
    paths = [str(bundle / "configs" / name) for name in files]
    flow = ConfigWorkflow(config_file=paths, workflow_type=kind, logging_file=False, **values)
    flow.initialize()
    return flow


def last(folder: Path) -> dict[str, Any]:
    """The checkpoint of a run."""
    return torch.load(folder / "models" / "last.pt", weights_only=True)


def run_in_two_processes(repository: Path, bundle: Path, files: Sequence[str], values: dict[str, Any]) -> None:
    """``torchrun`` with two processes on the CPU; fails with the end of their output."""
    paths = str([str(bundle / "configs" / name) for name in files])
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *launch, "-m", "monai.bundle", "run", "--config_file", paths]
    command += [f"--{key}={value}" for key, value in values.items() if key != "device"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(repository)}
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
