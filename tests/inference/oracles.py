"""A phantom given in world coordinates, and networks that need no training to find it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy.spatial.transform import Rotation

from custom_components.domain import Domain
from custom_components.inference import preprocessing
from custom_components.networks import U2Net
from custom_components.weights import save_bundle_weights

BACKGROUND, CONTRAST = 500.0, 300.0
THRESHOLD = BACKGROUND + CONTRAST / 2


def domain_of(**changes: Any) -> Domain:
    """A domain whose intensity rule is one straight line, so that thresholds keep their meaning."""
    augmentation = {
        "elastic": {"probability": 0, "sigma": [1, 1], "alpha": [0, 0]},
        "rotation": {"probability": 0, "angles": [[0, 0]] * 3},
        "mirror": {"probability": 0.5, "axes": [2]},
        **{name: {"probability": 0, "range": [1, 1]} for name in ("scale", "noise", "blur", "brightness", "contrast", "gamma")},
    }
    values: dict[str, Any] = {
        "name": "phantom",
        "organ": "phantom",
        "modality": "MR",
        "channels": ["one", "two"],
        "labels": {"background": 0, "one": 1, "two": 2},
        "label_merges": {},
        "stray_labels": "refuse",
        "crop_margin": 2,
        "spacing": [1, 1, 1],
        "patch_size": [32, 32, 32],
        "strides": [[2, 2, 2]],
        "kernel_sizes": [[3, 3, 3]] * 2,
        "intensity": {"floor": None, "percentiles": None, "statistics": "nonzero"},
        "sampling": {"batch_size": 1, "foreground": 0.5, "smallest_class": 0.5},
        "augmentation": augmentation,
        "postprocessing": {"one": {"closing": 1, "keep": 1}, "two": {"closing": 1, "keep": 1}},
    }
    return Domain.from_dict({**values, **changes})


@dataclass(frozen=True)
class Ellipsoid:
    """centre, radii: mm; turn: Euler angles, degrees."""

    centre: tuple[float, float, float]
    radii: tuple[float, float, float]
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def radius(self, points: np.ndarray) -> np.ndarray:
        """1 on the surface, in units of the radii; points (…, 3), mm."""
        axes = Rotation.from_euler("xyz", self.turn, degrees=True).as_matrix()
        return np.linalg.norm((points - self.centre) @ axes / self.radii, axis=-1)


# No plane of symmetry: a wrong axis order or flip cannot put them on themselves.
PAIR = (
    Ellipsoid((9.0, 4.0, -5.0), (16.0, 20.0, 18.0), (20.0, 0.0, 30.0)),
    Ellipsoid((-15.0, -10.0, 8.0), (17.0, 18.0, 15.0), (0.0, 25.0, 0.0)),
)


def sample(shape: Sequence[int], affine: np.ndarray, border: int = 0) -> tuple[MetaTensor, np.ndarray]:
    """Image (2, X, Y, Z), one ellipsoid a channel, smooth at its surface, and label (X, Y, Z), both at the voxels' centres."""
    points = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    radii = [ellipsoid.radius(points) for ellipsoid in PAIR]
    # A wide edge: what resampling costs is measured by the label, not by ringing at a step.
    image = np.stack([BACKGROUND + CONTRAST / (1 + np.exp((r - 1) * 6)) for r in radii]).astype(np.float32)
    label = np.zeros(shape, dtype=np.uint8)
    label[radii[1] < 1] = 2
    label[radii[0] < 1] = 1
    if border:
        kept = np.zeros(shape, dtype=bool)
        kept[(slice(border, -border),) * 3] = True
        image[:, ~kept] = 0
        label[~kept] = 0
    return MetaTensor(torch.from_numpy(image), affine=torch.from_numpy(affine)), label


class Thresholds(torch.nn.Module):
    """Class k where channel k − 1 exceeds its threshold: one-hot logits."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__()
        self.thresholds = thresholds

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.as_tensor() if isinstance(x, MetaTensor) else x
        found = torch.stack([values[:, c] > t for c, t in enumerate(self.thresholds)], dim=1).float()
        return torch.cat([torch.full_like(found[:, :1], 0.5), found], dim=1)


class Bands(torch.nn.Module):
    """For `tests.phantoms.hippocampus_like`: anterior above both thresholds, posterior between them."""

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = x.as_tensor() if isinstance(x, MetaTensor) else x
        anterior, above = values > self.high, values > self.low
        return torch.cat([(~above).float(), anterior.float(), (above & ~anterior).float()], dim=1)


def standardized(domain: Domain, image: MetaTensor, values: Sequence[float]) -> list[list[float]]:
    """Where raw intensities end up, per channel, under a rule without clipping: the oracle's thresholds.

    From the chain without its last two steps (the z-score and the type), and a z-score written out here.
    """
    geometry = Compose(preprocessing(domain).transforms[:-2])
    resampled = geometry({"image": MetaTensor(image.as_tensor(), meta=image.meta)})["image"].numpy().astype(np.float64)
    return [[(v - c[c != 0].mean()) / c[c != 0].std() for v in values] for c in resampled]


def oracle(domain: Domain, image: MetaTensor) -> Thresholds:
    return Thresholds([channel[0] for channel in standardized(domain, image, [THRESHOLD])])


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * np.logical_and(one, other).sum() / max(1, one.sum() + other.sum())


def small_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle's own configs with a small random network, whose predictions on a phantom have every class."""
    shutil.copytree(bundle / "configs", folder / "configs")
    config = folder / "configs" / "inference.json"
    values = json.loads(config.read_text())
    values["network_def"]["channels"] = [4, 8, 8, 8]
    config.write_text(json.dumps(values, indent=4))
    domain = Domain.from_file(folder / "configs" / "domain.json")
    torch.manual_seed(3)
    save_bundle_weights(U2Net({domain.name: domain.network}, (4, 8, 8, 8), deep_supervision="heads"), folder / "models")
    return folder


def universal_bundle(bundle: Path, folder: Path) -> Path:
    """A bundle of two domains, ``first`` and ``second``, of different spacing and patch, with random weights."""
    values = json.loads((bundle / "configs" / "domain.json").read_text())
    domains = {}
    for name, spacing, patch in (("first", [1.0, 1.0, 1.0], [24, 32, 24]), ("second", [2.0, 1.5, 1.5], [16, 24, 16])):
        values.update(name=name, spacing=spacing, patch_size=patch)
        path = folder / "configs" / "domains" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
        domains[name] = Domain.from_file(path).network
    torch.manual_seed(0)
    save_bundle_weights(U2Net(domains, (4, 4, 8, 8)), folder / "models")
    return folder
