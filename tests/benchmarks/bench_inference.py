"""Time everything but the network when one CT is segmented: ours, the original's steps, and MONAI's own transforms.

    python tests/benchmarks/bench_inference.py
    python tests/benchmarks/bench_inference.py --domain two-organs --sides ours,original
    python tests/benchmarks/bench_inference.py --memory 1000

The default is the original's recipe for the liver: spacing 1×0.77×0.77 mm, windows of 128³, one organ. All sides segment the
same phantom with the same cheap rule in place of a network, whose time is taken out. The original's steps are written here as
its description says (float64 NumPy, SciPy, ITK's resampler, which is SimpleITK's); MONAI's are
``Spacingd`` (order 3), ``CropForegroundd``, ``SlidingWindowInferer``, ``AsDiscreted``, ``KeepLargestConnectedComponentd`` and
``Invertd``. Sides run in turn, under an allocator that keeps large tensors. Beside our windows stands what the memory allows at
best. ``--memory N`` measures the peak memory of our pipeline for 512×512×N voxels instead.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from multiprocessing import get_context
from tempfile import TemporaryDirectory
from typing import Any

import itk
import nibabel as nib
import numpy as np
import torch
from measuring import commit, machine
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from monai.transforms import (
    AsDiscreted,
    ClipIntensityPercentilesd,
    Compose,
    CropForegroundd,
    EnsureTyped,
    Invertd,
    KeepLargestConnectedComponentd,
    Lambdad,
    NormalizeIntensityd,
    Orientationd,
    Spacingd,
    ThresholdIntensityd,
)
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from custom_components.allocator import reuse_large_tensors
from custom_components.domain import Domain
from custom_components.inference import Segmenter
from custom_components.inference.chain import AXES, WORLD
from custom_components.inference.class_map import window_starts
from custom_components.inference.windows import distance_weights

SPACING = (2.5, 0.8, 0.8)  # mm, z y x
FLOOR = -1024
STRUCTURE = ndimage.generate_binary_structure(3, 2)
# Our stages, and what the other sides call theirs.
STAGES = ("check", "orient", "crop", "resample", "intensities", "windows", "components", "restore")


@dataclass(frozen=True)
class Task:
    """What is done to a CT; the thresholds stand in for a network.

    Attributes:
        spacing: mm, (z, y, x).
        patch: size of the windows, (z, y, x).
        percentiles: clipped to.
        statistics: voxels of the z-score.
        labels: class indices, the background's first.
        thresholds: standardised grey levels from which on a voxel belongs to the next class.
    """

    spacing: tuple[float, float, float]
    patch: tuple[int, int, int]
    percentiles: tuple[float, float]
    statistics: str
    labels: dict[str, int]
    thresholds: tuple[float, ...]

    @property
    def domain(self) -> Domain:
        off = {"probability": 0, "range": [1, 1]}
        return Domain.from_dict(
            {
                "name": "ct_phantom",
                "organ": "phantom",
                "modality": "CT",
                "channels": ["CT"],
                "labels": self.labels,
                "label_merges": {},
                "stray_labels": "refuse",
                "crop_margin": 0,
                "spacing": list(self.spacing),
                "patch_size": list(self.patch),
                "strides": [[1, 2, 2]],
                "kernel_sizes": [[3, 3, 3]] * 2,
                "intensity": {"floor": FLOOR, "percentiles": list(self.percentiles), "statistics": self.statistics},
                "sampling": {"batch_size": 1, "foreground": 0.5, "smallest_class": 0.0},
                "augmentation": {
                    "elastic": {"probability": 0, "sigma": [1, 1], "alpha": [0, 0]},
                    "rotation": {"probability": 0, "angles": [[0, 0]] * 3},
                    "mirror": {"probability": 0.5, "axes": [2]},
                    **dict.fromkeys(("scale", "noise", "blur", "brightness", "contrast", "gamma"), off),
                },
                "postprocessing": {name: {"closing": 1, "keep": 1} for name, index in self.labels.items() if index},
            }
        )


TASKS = {
    "liver": Task((1, 0.77, 0.77), (128, 128, 128), (2, 98), "positive", {"background": 0, "liver": 1}, (1.5,)),
    "two-organs": Task((2.5, 1, 1), (64, 128, 128), (0.5, 99.5), "all", {"background": 0, "body": 1, "organ": 2}, (0.0, 1.2)),
}


def phantom(planes: int) -> MetaTensor:
    """(1, X, Y, Z) as a NIfTI of a scanner has it: soft tissue in air, an organ in it, a smaller one as bright, noise."""
    rng = np.random.default_rng(0)
    z, y, x = np.ogrid[:planes, :512, :512]
    values = np.empty((planes, 512, 512), np.float32)
    body = (((y - 256) / 200) ** 2 + ((x - 256) / 240) ** 2 < 1)[0]
    organ = ((z - planes / 2) / (planes / 4)) ** 2 + ((y - 300) / 60.0) ** 2 + ((x - 200) / 80.0) ** 2 < 1
    organ |= ((z - planes / 3) / (planes / 12)) ** 2 + ((y - 200) / 30.0) ** 2 + ((x - 370) / 30.0) ** 2 < 1
    for plane, inside in zip(values, organ, strict=True):
        plane[:] = np.where(body, 40, -1000) + rng.standard_normal((512, 512), dtype=np.float32) * 15
        plane[inside] += 400
    affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
    return MetaTensor(torch.from_numpy(values.transpose(2, 1, 0).copy())[None], affine=affine)


class Rule(torch.nn.Module):
    """Scores of the classes by grey level, in place of a network; how long it took."""

    def __init__(self, thresholds: Sequence[float]) -> None:
        super().__init__()
        self.thresholds = thresholds
        self.seconds = 0.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        x = x.as_tensor() if isinstance(x, MetaTensor) else x
        # Class k is the best between its threshold and the next: the lines that meet there rise ever more steeply.
        scores = x.new_zeros((len(x), len(self.thresholds) + 1, *x.shape[2:]))
        for k, threshold in enumerate(self.thresholds, 1):
            torch.sub(x[:, 0], threshold, out=scores[:, k])
            scores[:, k] += scores[:, k - 1]
        self.seconds += time.perf_counter() - start
        return scores


@contextmanager
def stage(seconds: dict[str, float], name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - start


def ours(image: MetaTensor, task: Task) -> tuple[np.ndarray, dict[str, float]]:
    result = Segmenter(task.domain, Rule(task.thresholds), "cpu").segment(image)
    seconds = {name: s for name, s in result.seconds.items() if name not in ("read", "network", "convert")}
    return result.label.numpy()[0], seconds


def original(image: MetaTensor, task: Task) -> tuple[np.ndarray, dict[str, float]]:
    """The description's steps, each as a plain use of NumPy, SciPy and ITK."""
    seconds: dict[str, float] = {}
    with stage(seconds, "orient"):
        volume = np.ascontiguousarray(image.numpy()[0].transpose(2, 1, 0)[:, ::-1, ::-1]).astype(np.float64)
    with stage(seconds, "crop"):
        low, high = (f(np.array(np.nonzero(volume)), axis=1) for f in (np.min, np.max))
        box = tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True))
        cropped = volume[box]
    with stage(seconds, "resample"):
        size = [round((n - 1) * s / t) + 1 for n, s, t in zip(cropped.shape, SPACING, task.spacing, strict=True)]
        resampled = itk_resample(cropped.astype(np.float32), SPACING, task.spacing, size, cubic=True)
    with stage(seconds, "intensities"):
        values = np.maximum(resampled, FLOOR)
        values = np.clip(values, *np.percentile(values, task.percentiles))
        chosen = values[values > 0] if task.statistics == "positive" else values
        values = (values - chosen.mean(dtype=np.float64)) / chosen.std(dtype=np.float64)
    rule, tensor = Rule(task.thresholds), torch.from_numpy(values.astype(np.float32))[None, None]
    with stage(seconds, "windows"):
        weights = distance_weights(task.patch, torch.float64).numpy()
        total = np.zeros((len(task.labels), *values.shape))
        norm = np.zeros(values.shape)
        # One at every half window, moved back where it would leave the volume: the last two of an axis are the same.
        starts = [[min(i, n - p) for i in range(0, n, p // 2)] for n, p in zip(values.shape, task.patch, strict=True)]
        for z in starts[0]:
            for y in starts[1]:
                for x in starts[2]:
                    where = (slice(z, z + task.patch[0]), slice(y, y + task.patch[1]), slice(x, x + task.patch[2]))
                    total[(slice(None), *where)] += rule(tensor[(..., *where)])[0].double().numpy() * weights
                    norm[where] += weights
        classes = np.argmax(total / norm, axis=0).astype(np.uint8)
    seconds["windows"] -= rule.seconds
    with stage(seconds, "components"):
        kept = np.zeros_like(classes)
        for index in range(1, len(task.labels)):
            closed = ndimage.binary_closing(classes == index, STRUCTURE)
            parts, _ = ndimage.label(closed, STRUCTURE)
            sizes = np.bincount(parts.ravel())
            sizes[0] = 0
            kept[parts == sizes.argmax()] = index
    with stage(seconds, "restore"):
        back = itk_resample(kept, task.spacing, SPACING, cropped.shape, cubic=False)
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


def over_positive(image: torch.Tensor) -> torch.Tensor:
    """Z-score over the voxels above 0, which MONAI has no transform for."""
    chosen = image[image > 0]
    return (image - chosen.mean()) / chosen.std(unbiased=False)


def monai_chain(image: MetaTensor, task: Task) -> tuple[np.ndarray, dict[str, float]]:
    seconds: dict[str, float] = {}
    before = Compose(
        [
            Orientationd("image", axcodes=AXES, labels=WORLD),
            CropForegroundd("image", "image", select_fn=lambda x: x != 0, allow_smaller=True),
            Spacingd("image", task.spacing, mode=3, padding_mode="nearest", dtype=np.float32),  # type: ignore[arg-type]
            ThresholdIntensityd("image", FLOOR, above=True, cval=FLOOR),
            ClipIntensityPercentilesd("image", *task.percentiles),
            NormalizeIntensityd("image") if task.statistics == "all" else Lambdad("image", over_positive),
            EnsureTyped("image"),
        ]
    )
    names = ("orient", "crop", "resample", *["intensities"] * 4)
    item: dict[Any, Any] = {"image": MetaTensor(image.as_tensor(), affine=image.affine)}
    for name, transform in zip(names, before.transforms, strict=True):
        with stage(seconds, name):
            item = transform(item)  # type: ignore[operator]
    rule = Rule(task.thresholds)
    with stage(seconds, "windows"), torch.no_grad():
        logits = SlidingWindowInferer(task.patch, overlap=0.5, mode="gaussian")(item["image"][None], rule)[0]  # type: ignore[index]
        item["pred"] = logits
        item = AsDiscreted("pred", argmax=True)(item)
    seconds["windows"] -= rule.seconds
    if find_spec("skimage"):  # which MONAI leaves to its users
        with stage(seconds, "components"):
            item = KeepLargestConnectedComponentd("pred", applied_labels=list(range(1, len(task.labels))), connectivity=2)(item)
    with stage(seconds, "restore"):
        item = Invertd("pred", transform=before, orig_keys="image", nearest_interp=True)(item)
    return item["pred"].numpy()[0].astype(np.uint8), seconds


SIDES: dict[str, Callable[[MetaTensor, Task], tuple[np.ndarray, dict[str, float]]]] = {
    "ours": ours,
    "original": original,
    "MONAI": monai_chain,
}


def compare(image: MetaTensor, task: Task, sides: Sequence[str], runs: int, title: str) -> tuple[Table, list[str]]:
    if "ours" in sides:
        ours(image, task)  # compiles, or loads what is compiled
    times: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    labels: dict[str, np.ndarray] = {}
    for turn in range(runs):
        for name in sides:
            labels[name], seconds = SIDES[name](image, task)
            times[name].append(seconds)
            print(f"{name}, run {turn + 1}: {sum(seconds.values()):.2f} s", file=sys.stderr, flush=True)
    median = {name: {s: statistics.median(run.get(s, 0.0) for run in every) for s in STAGES} for name, every in times.items()}
    for stages in median.values():
        stages["all"] = sum(stages.values())
    peers = [name for name in sides if name != "ours" and "ours" in sides]
    table = Table("stage", *(f"{name}, s" for name in sides), *(f"× {name}" for name in peers), title=title)
    for s in (*STAGES, "all"):
        if s == "all":
            table.add_section()
        ratios = (f"{median[name][s] / median['ours'][s]:.1f}" if median[name][s] else "–" for name in peers)
        table.add_row(s, *(f"{median[name][s]:.3f}" if median[name][s] else "–" for name in sides), *ratios)
    notes = [
        f"voxels on which {name} gives the same class as ours: {(labels[name] == labels['ours']).mean():.4%}" for name in peers
    ]
    notes.append(f"windows at best, {floor(image, task)}")
    if "MONAI" in sides and not find_spec("skimage"):
        notes.append("MONAI's components: absent (scikit-image is not installed), so its total lacks them")
    return table, notes


def floor(image: MetaTensor, task: Task) -> str:
    """How long the memory takes for what no order of the windows can avoid: logits read, sums read and written."""
    size = [round((n - 1) * s / t) + 1 for n, s, t in zip(image.shape[:0:-1], SPACING, task.spacing, strict=True)]
    count = int(np.prod([len(window_starts(max(n, p), p, 0.5)) for n, p in zip(size, task.patch, strict=True)]))
    classes, voxels = len(task.labels), int(np.prod(task.patch))
    moved = count * voxels * 4 * (classes + 2 * (classes - 1))
    a, b = torch.zeros(2**26), torch.zeros(2**26)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        a.add_(b)
        times.append(time.perf_counter() - start)
    rate = 3 * a.numel() * 4 / min(times)
    patch, grid = ("×".join(map(str, lengths)) for lengths in (task.patch, size))
    return (
        f"{count} of {patch} on {grid}: {moved / 1e9:.1f} GB of logits read and of sums read and written, "
        f"{moved / rate:.2f} s at the {rate / 1e9:.0f} GB/s of adding two large tensors"
    )


def write_phantom(path: str, planes: int) -> None:
    image = phantom(planes)
    nib.save(nib.Nifti1Image(image.numpy()[0].round().astype(np.int16), image.affine.numpy()), path)


def peak_memory(planes: int, task: Task) -> str:
    """Of this process, which reads the image from a file that another process made, GB."""
    with TemporaryDirectory() as folder:
        path = f"{folder}/ct.nii"
        writer = get_context("spawn").Process(target=write_phantom, args=(path, planes))
        writer.start()
        writer.join()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        start = time.perf_counter()
        result = Segmenter(task.domain, Rule(task.thresholds), "cpu").segment(path)
    seconds = time.perf_counter() - start
    assert result.label.shape == (1, 512, 512, planes)
    return (
        f"512×512×{planes}, read from a file: {seconds:.1f} s, of which the rule in place of a network "
        f"{result.seconds['network']:.1f} s; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB, "
        f"{before:.2f} GB of it before (imports)"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=100, help="of the CT, 512×512 voxels each")
    parser.add_argument("--domain", choices=list(TASKS), default="liver")
    parser.add_argument("--sides", default=",".join(SIDES), help="which to run, with commas between")
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each side (the median is shown)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, and so of every side that takes them")
    parser.add_argument("--memory", type=int, metavar="N", help="measure memory for 512×512×N instead")
    arguments = parser.parse_args()
    sides, task = arguments.sides.split(","), TASKS[arguments.domain]
    if not set(sides) <= set(SIDES):
        parser.error(f"--sides: some of {','.join(SIDES)}")
    reuse_large_tensors()
    torch.set_num_threads(arguments.threads)
    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(arguments.threads)
    title = f"commit {commit()}, {machine()}, {arguments.threads} threads, {datetime.now(UTC):%Y-%m-%d}"
    console = Console(width=140)
    if arguments.memory:
        console.print(f"{title}\n{peak_memory(arguments.memory, task)}")
        return
    heading = f"one CT, 512×512×{arguments.planes}, {arguments.domain}, all but the network; {title}"
    table, notes = compare(phantom(arguments.planes), task, sides, arguments.runs, heading)
    console.print(table, *notes, sep="\n")


if __name__ == "__main__":
    main()
