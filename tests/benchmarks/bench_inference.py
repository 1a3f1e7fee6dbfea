"""Time everything but the network when one CT is segmented: ours, the original's steps, and MONAI's own transforms.

    python tests/benchmarks/bench_inference.py
    python tests/benchmarks/bench_inference.py --memory 1000

All three segment the same phantom with the same cheap rule in place of a network, whose time is taken out. The original's
steps are written here as its description says (float64 NumPy, SciPy, ITK's resampler, which is SimpleITK's); MONAI's are
``Spacingd`` (order 3), ``CropForegroundd``, ``SlidingWindowInferer``, ``AsDiscreted``, ``KeepLargestConnectedComponentd`` and
``Invertd``. Sides run in turn, under an
allocator that keeps large tensors. ``--memory N`` measures the peak memory of our pipeline for 512×512×N voxels instead.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Any

import itk
import numpy as np
import torch
from measuring import commit, machine
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    Compose,
    CropForegroundd,
    EnsureTyped,
    Invertd,
    KeepLargestConnectedComponentd,
    NormalizeIntensityd,
    Orientationd,
    ScaleIntensityRangePercentilesd,
    Spacingd,
)
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from custom_components.allocator import reuse_large_tensors
from custom_components.domain import Domain
from custom_components.inference import Segmenter
from custom_components.inference.chain import AXES, WORLD
from custom_components.inference.windows import distance_weights

SPACING = (2.5, 0.8, 0.8)  # mm, z y x
TARGET = (2.5, 1.0, 1.0)
PATCH = (64, 128, 128)
PERCENTILES = (0.5, 99.5)
STRUCTURE = ndimage.generate_binary_structure(3, 2)
# Our stages, and what the other sides call theirs.
STAGES = ("check", "orient", "crop", "resample", "intensities", "windows", "components", "restore")


def ct_domain() -> Domain:
    """A CT with two organs."""
    off = {"probability": 0, "range": [1, 1]}
    return Domain.from_dict(
        {
            "name": "ct_phantom",
            "organ": "phantom",
            "modality": "CT",
            "channels": ["CT"],
            "labels": {"background": 0, "body": 1, "organ": 2},
            "label_merges": {},
            "stray_labels": "refuse",
            "crop_margin": 0,
            "spacing": list(TARGET),
            "patch_size": list(PATCH),
            "strides": [[1, 2, 2]],
            "kernel_sizes": [[3, 3, 3]] * 2,
            "intensity": {"floor": -1024, "percentiles": list(PERCENTILES), "statistics": "all"},
            "sampling": {"batch_size": 1, "foreground": 0.5, "smallest_class": 0.0},
            "augmentation": {
                "elastic": {"probability": 0, "sigma": [1, 1], "alpha": [0, 0]},
                "rotation": {"probability": 0, "angles": [[0, 0]] * 3},
                "mirror": {"probability": 0.5, "axes": [2]},
                **dict.fromkeys(("scale", "noise", "blur", "brightness", "contrast", "gamma"), off),
            },
            "postprocessing": {"body": {"closing": 1, "keep": 1}, "organ": {"closing": 1, "keep": 1}},
        }
    )


def phantom(planes: int) -> MetaTensor:
    """(1, X, Y, Z) as a NIfTI of a scanner has it: a body of soft tissue in air, an organ in it, noise."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:planes, :512, :512]
    values = np.empty((planes, 512, 512), np.float32)
    body = (((y - 256) / 200) ** 2 + ((x - 256) / 240) ** 2 < 1)[0]
    organ = ((z - planes / 2) / (planes / 4)) ** 2 + ((y - 300) / 60.0) ** 2 + ((x - 200) / 80.0) ** 2 < 1
    for plane, inside in zip(values, organ, strict=True):
        plane[:] = np.where(body, 40, -1000) + rng.standard_normal((512, 512), dtype=np.float32) * 15
        plane[inside] += 400
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    return MetaTensor(torch.from_numpy(values.transpose(2, 1, 0).copy())[None], affine=affine)


class Rule(torch.nn.Module):
    """Scores of three classes by grey level, in place of a network; how long it took."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        scores = torch.cat([-x - 0.2, 0.4 - (x - 0.6).abs(), x - 1.4], dim=1)
        self.seconds += time.perf_counter() - start
        return scores


@contextmanager
def stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def ours(image: MetaTensor) -> tuple[np.ndarray, dict[str, float]]:
    result = Segmenter(ct_domain(), Rule(), "cpu").segment(image)
    seconds = {name: s for name, s in result.seconds.items() if name not in ("read", "network", "convert")}
    return result.label.numpy()[0], seconds


def original(image: MetaTensor) -> tuple[np.ndarray, dict[str, float]]:
    """The description's steps, each as a plain use of NumPy, SciPy and ITK."""
    seconds: dict[str, float] = {}
    with stage(seconds, "orient"):
        volume = np.ascontiguousarray(image.numpy()[0].transpose(2, 1, 0)[:, ::-1, ::-1]).astype(np.float64)
    with stage(seconds, "crop"):
        low, high = (f(np.array(np.nonzero(volume)), axis=1) for f in (np.min, np.max))
        box = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        cropped = volume[box]
    with stage(seconds, "resample"):
        size = [round((n - 1) * s / t) + 1 for n, s, t in zip(cropped.shape, SPACING, TARGET, strict=True)]
        resampled = itk_resample(cropped.astype(np.float32), SPACING, TARGET, size, cubic=True)
    with stage(seconds, "intensities"):
        values = np.maximum(resampled, -1024)
        values = np.clip(values, *np.percentile(values, PERCENTILES))
        values = (values - values.mean(dtype=np.float64)) / values.std(dtype=np.float64)
    rule, tensor = Rule(), torch.from_numpy(values.astype(np.float32))[None, None]
    with stage(seconds, "windows"):
        weights = distance_weights(PATCH, torch.float64).numpy()
        total = np.zeros((3, *values.shape))
        norm = np.zeros(values.shape)
        # One at every half window, moved back where it would leave the volume: the last two of an axis are the same.
        starts = [[min(i, n - p) for i in range(0, n, p // 2)] for n, p in zip(values.shape, PATCH, strict=True)]
        for z in starts[0]:
            for y in starts[1]:
                for x in starts[2]:
                    where = (slice(z, z + PATCH[0]), slice(y, y + PATCH[1]), slice(x, x + PATCH[2]))
                    total[(slice(None), *where)] += rule(tensor[(..., *where)])[0].double().numpy() * weights
                    norm[where] += weights
        classes = np.argmax(total / norm, axis=0).astype(np.uint8)
    seconds["windows"] -= rule.seconds
    with stage(seconds, "components"):
        kept = np.zeros_like(classes)
        for index in (1, 2):
            closed = ndimage.binary_closing(classes == index, STRUCTURE)
            parts, _ = ndimage.label(closed, STRUCTURE)
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept[parts == sizes.argmax()] = index
    with stage(seconds, "restore"):
        back = itk_resample(kept, TARGET, SPACING, cropped.shape, cubic=False)
        label = np.zeros(volume.shape, np.uint8)
        label[box] = back
        label = label[:, ::-1, ::-1].transpose(2, 1, 0)
    return label, seconds


def itk_resample(volume: np.ndarray, spacing, target, size, cubic: bool) -> np.ndarray:
    image = itk.image_from_array(np.ascontiguousarray(volume))
    image.SetSpacing(spacing[::-1])
    interpolator = (
        itk.BSplineInterpolateImageFunction.New(image, SplineOrder=3)
        if cubic
        else itk.NearestNeighborInterpolateImageFunction.New(image)
    )
    result = itk.resample_image_filter(
        image,
        interpolator=interpolator,
        size=[int(n) for n in reversed(size)],
        output_spacing=list(target[::-1]),
        output_origin=[0.0, 0.0, 0.0],
    )
    return np.asarray(itk.array_from_image(result))


def monai_chain(image: MetaTensor) -> tuple[np.ndarray, dict[str, float]]:
    seconds: dict[str, float] = {}
    before = Compose(
        [
            Orientationd("image", axcodes=AXES, labels=WORLD),
            CropForegroundd("image", "image", select_fn=lambda x: x != 0, allow_smaller=True),
            Spacingd("image", TARGET, mode=3, padding_mode="nearest", dtype=np.float32),  # type: ignore[arg-type]
            ScaleIntensityRangePercentilesd("image", *PERCENTILES, 0, 1, clip=True),
            NormalizeIntensityd("image"),
            EnsureTyped("image"),
        ]
    )
    names = ("orient", "crop", "resample", "intensities", "intensities", "intensities")
    item: dict[Any, Any] = {"image": MetaTensor(image.as_tensor(), affine=image.affine)}
    for name, transform in zip(names, before.transforms, strict=True):
        with stage(seconds, name):
            item = transform(item)  # type: ignore[operator]
    rule = Rule()
    with stage(seconds, "windows"), torch.no_grad():
        logits = SlidingWindowInferer(PATCH, overlap=0.5, mode="gaussian")(item["image"][None], rule)[0]  # type: ignore[index]
        item["pred"] = logits
        item = AsDiscreted("pred", argmax=True)(item)
    seconds["windows"] -= rule.seconds
    if find_spec("skimage"):  # which MONAI leaves to its users
        with stage(seconds, "components"):
            item = KeepLargestConnectedComponentd("pred", applied_labels=[1, 2], connectivity=2)(item)
    with stage(seconds, "restore"):
        item = Invertd("pred", transform=before, orig_keys="image", nearest_interp=True)(item)
    return item["pred"].numpy()[0].astype(np.uint8), seconds


SIDES: dict[str, Callable[[MetaTensor], tuple[np.ndarray, dict[str, float]]]] = {
    "ours": ours,
    "original": original,
    "MONAI": monai_chain,
}


def compare(planes: int, runs: int, title: str) -> tuple[Table, list[str]]:
    image = phantom(planes)
    ours(image)  # compiles, or loads what is compiled
    times: dict[str, list[dict[str, float]]] = {name: [] for name in SIDES}
    labels: dict[str, np.ndarray] = {}
    for turn in range(runs):
        for name, side in SIDES.items():
            labels[name], seconds = side(image)
            times[name].append(seconds)
            print(f"{name}, run {turn + 1}: {sum(seconds.values()):.2f} s", file=sys.stderr, flush=True)
    median = {name: {s: statistics.median(run.get(s, 0.0) for run in every) for s in STAGES} for name, every in times.items()}
    table = Table("stage", *(f"{name}, s" for name in SIDES), "× original", "× MONAI", title=title)
    for s in STAGES:
        own = median["ours"][s]
        ratios = [f"{median[name][s] / own:.1f}" if median[name][s] else "–" for name in ("original", "MONAI")]
        table.add_row(s, *(f"{median[name][s]:.2f}" if median[name][s] else "–" for name in SIDES), *ratios)
    totals = {name: sum(stages.values()) for name, stages in median.items()}
    table.add_section()
    faster = (f"{totals[name] / totals['ours']:.1f}" for name in ("original", "MONAI"))
    table.add_row("all", *(f"{totals[name]:.2f}" for name in SIDES), *faster)
    notes = [
        f"voxels on which {name} gives the same class as ours: {(labels[name] == labels['ours']).mean():.4%}"
        for name in ("original", "MONAI")
    ]
    if not find_spec("skimage"):
        notes.append("MONAI's components: absent (scikit-image is not installed), so its total lacks them")
    return table, notes


def peak_memory(planes: int) -> str:
    """Of this process, which has done nothing else, GB."""
    image = phantom(planes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    start = time.perf_counter()
    result = Segmenter(ct_domain(), Rule(), "cpu").segment(image)
    seconds = time.perf_counter() - start
    assert result.label.shape == image.shape
    return (
        f"512×512×{planes}: {seconds:.1f} s, of which the rule in place of a network {result.seconds['network']:.1f} s; "
        f"peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, {before:.2f} GB of it before (imports and the "
        f"image's {image.numel() * 4 / 1e9:.2f} GB)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=100, help="of the CT, 512×512 voxels each")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each side (the median is shown)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, and so of every side that takes them")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory for 512×512×N instead")
    arguments = parser.parse_args()
    reuse_large_tensors()
    torch.set_num_threads(arguments.threads)
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(arguments.threads)
    title = f"commit {commit()}, {machine()}, {arguments.threads} threads, {datetime.now(UTC):%Y-%m-%d}"
    console = Console(width=140)
    if arguments.memory:
        console.print(f"{title}\n{peak_memory(arguments.memory)}")
        return
    table, notes = compare(arguments.planes, arguments.runs, f"one CT, 512×512×{arguments.planes}, all but the network; {title}")
    console.print(table, *notes, sep="\n")


if __name__ == "__main__":
    main()
