"""Time the deformation of an image and its label against the libraries that people use, in one process, and print ratios.

    pip install -e '.[bench]'
    python tests/benchmarks/bench_deform.py --threads 2 --markdown docs/deformation_speed.md

Every call draws new parameters. The sides of a row run in turn, so that a machine whose speed drifts favours none; medians
are shown, and in brackets how many times longer than ours. A peer that is not installed is named as absent. On a machine
with a GPU, --device cuda measures the same there with CUDA events.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import commit, event_clock, machine
from monai.transforms import (
    ClassesToIndicesd,
    Compose,
    Rand3DElasticd,
    RandAffined,
    RandCropByLabelClassesd,
    RandFlipd,
    SpatialPadd,
)
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from custom_components.transforms import (
    RandDeformBatchd,
    RandDeformCropd,
    RandDeformd,
    RandElastic,
    RandFlip,
    RandRotate,
    RandScale,
)

Call = Callable[[], object]
SHAPES = [(48, 240, 240), (128, 128, 128)]
PARTS = {"rotate": ("rotate",), "scale": ("scale",), "elastic": ("elastic",), "all": ("elastic", "rotate", "scale")}
TURN = 2 * math.pi
SIGMA, ALPHA, SCALE = (10.0, 13.0), (0.0, 750.0), (0.75, 1.25)
KEYS = ("image", "label")
PEERS = ("SciPy", "MONAI", "batchgenerators", "batchgeneratorsv2", "TorchIO", "elasticdeform")


def volumes(shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.normal(size=(1, *shape)).astype(np.float32))
    label = np.zeros((1, *shape), np.uint8)
    label[(0, *(slice(n // 4, n // 2) for n in shape))] = 1
    label[(0, *(slice(n // 2, 3 * n // 4) for n in shape))] = 2
    return {"image": image, "label": torch.from_numpy(label)}


def operations(parts: tuple[str, ...], law: str = "spline") -> list[Any]:
    made = {
        "elastic": RandElastic(1.0, SIGMA, ALPHA, law),  # type: ignore[arg-type]
        "rotate": RandRotate(1.0, [[0, TURN], [0, 0], [0, 0]]),
        "scale": RandScale(1.0, SCALE),
    }
    return [made[part] for part in parts]


def ours(data: dict[str, torch.Tensor], parts: tuple[str, ...], order: int = 1, law: str = "spline") -> Call:
    transform = RandDeformd(KEYS, operations(parts, law), [order, 0]).set_random_state(0)
    return lambda: transform(data)


def scipy_call(data: dict[str, torch.Tensor], parts: tuple[str, ...], order: int = 1) -> Call:
    """As the original's CPU path: mesh, noise, filter, rotation, scale, two interpolations."""
    image, label = data["image"][0].numpy(), data["label"][0].numpy()
    random, shape = np.random.RandomState(0), image.shape

    def call() -> None:
        at = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij"))
        if "elastic" in parts:
            sigma, alpha = random.uniform(*SIGMA), random.uniform(*ALPHA)
            for axis in at:
                axis += ndimage.gaussian_filter(random.uniform(-1, 1, shape), sigma, mode="constant") * alpha
        if "rotate" in parts:
            angle = random.uniform(0, TURN)
            y = at[1] * math.cos(angle) + at[2] * math.sin(angle)
            at[2] = at[2] * math.cos(angle) - at[1] * math.sin(angle)
            at[1] = y
        if "scale" in parts:
            at *= random.uniform(*SCALE)
        at += np.reshape(shape, (3, 1, 1, 1)) / 2
        ndimage.map_coordinates(image, at, order=order)
        ndimage.map_coordinates(label, at, order=0)

    return call


def monai_call(data: dict[str, torch.Tensor], parts: tuple[str, ...], device: torch.device | None = None) -> Call:
    settings: dict[str, Any] = {"prob": 1.0, "mode": ("bilinear", "nearest"), "padding_mode": "zeros", "device": device}
    if "rotate" in parts:
        settings["rotate_range"] = ((0, TURN), (0, 0), (0, 0))
    if "scale" in parts:
        settings["scale_range"] = ((SCALE[0] - 1, SCALE[1] - 1),) * 3
    if "elastic" in parts:
        transform: Any = Rand3DElasticd(KEYS, sigma_range=SIGMA, magnitude_range=ALPHA, **settings)
    else:
        transform = RandAffined(KEYS, **settings)
    transform.set_random_state(0)
    return lambda: transform(dict(data))


def batchgenerators_call(data: dict[str, torch.Tensor], parts: tuple[str, ...]) -> Call:
    spatial = importlib.import_module("batchgenerators.augmentations.spatial_transformations")
    image, label = data["image"][None].numpy(), data["label"][None].numpy()
    settings = {
        "do_elastic_deform": "elastic" in parts,
        "do_rotation": "rotate" in parts,
        "do_scale": "scale" in parts,
        "alpha": ALPHA,
        "sigma": SIGMA,
        "scale": SCALE,
        "angle_x": (0, TURN),
        "angle_y": (0, 0),
        "angle_z": (0, 0),
        "random_crop": False,
        "border_mode_data": "constant",
        "order_data": 1,
        "order_seg": 0,
    }
    return lambda: spatial.augment_spatial(image, label, image.shape[2:], **settings)


def batchgeneratorsv2_call(data: dict[str, torch.Tensor], parts: tuple[str, ...]) -> Call:
    spatial = importlib.import_module("batchgeneratorsv2.transforms.spatial.spatial")
    transform = spatial.SpatialTransform(
        tuple(data["image"].shape[1:]),
        patch_center_dist_from_border=0,
        random_crop=False,
        p_elastic_deform=float("elastic" in parts),
        p_rotation=float("rotate" in parts),
        rotation=(0, TURN),
        p_scaling=float("scale" in parts),
        scaling=SCALE,
        p_synchronize_scaling_across_axes=1,
        mode_seg="nearest",
    )
    return lambda: transform(image=data["image"], segmentation=data["label"].to(torch.int16))


def torchio_call(data: dict[str, torch.Tensor], parts: tuple[str, ...]) -> Call:
    tio = importlib.import_module("torchio")
    steps = []
    if "elastic" in parts:
        steps.append(tio.RandomElasticDeformation())
    if "rotate" in parts or "scale" in parts:
        scales = SCALE if "scale" in parts else (1, 1)
        degrees = (0, 360, 0, 0, 0, 0) if "rotate" in parts else 0
        steps.append(tio.RandomAffine(scales=scales, degrees=degrees, isotropic=True, default_pad_value=0))
    transform = tio.Compose(steps)
    subject = tio.Subject(image=tio.ScalarImage(tensor=data["image"]), label=tio.LabelMap(tensor=data["label"]))
    return lambda: transform(subject)


def elasticdeform_call(data: dict[str, torch.Tensor], parts: tuple[str, ...]) -> Call | None:
    deform = importlib.import_module("elasticdeform")
    if parts != ("elastic",):
        return None
    image, label = data["image"][0].numpy(), data["label"][0].numpy()
    points = [max(3, round(n / (math.sqrt(3) * sum(SIGMA) / 2))) for n in image.shape]
    return lambda: deform.deform_random_grid([image, label], sigma=2, points=points, order=[1, 0])


MAKERS: dict[str, Callable[..., Call | None]] = {
    "SciPy": scipy_call,
    "MONAI": monai_call,
    "batchgenerators": batchgenerators_call,
    "batchgeneratorsv2": batchgeneratorsv2_call,
    "TorchIO": torchio_call,
    "elasticdeform": elasticdeform_call,
}


def copy_call(data: dict[str, torch.Tensor]) -> Call:
    """The floor: read and write image and label once."""
    targets = {key: torch.empty_like(value) for key, value in data.items()}
    return lambda: [targets[key].copy_(value) for key, value in data.items()]


def clock(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Call], runs: int, timer: Callable[[Call], float] = clock) -> dict[str, float]:
    """Median seconds of every side, run in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            seconds = timer(call)
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def extra_memory(call: Call, data: dict[str, torch.Tensor]) -> float:
    """Peak of what a call allocates beside its results (all of it through NumPy), in results."""
    call()
    tracemalloc.start()
    kept = call()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    del kept
    return peak / sum(v.numel() * v.element_size() for v in data.values()) - 1


def peers_of(data: dict[str, torch.Tensor], parts: tuple[str, ...], absent: dict[str, str]) -> dict[str, Call]:
    calls = {}
    for name, make in MAKERS.items():
        if name in absent:
            continue
        try:
            call = make(data, parts)
        except (ImportError, AttributeError) as error:
            absent[name] = str(error).splitlines()[-1][:80]
            continue
        if call is not None:
            calls[name] = call
    return calls


def cpu_rows(runs: int, absent: dict[str, str]):
    """(what, shape, medians by side, extra memory in results)."""
    for shape in SHAPES:
        data = volumes(shape)
        for what, parts in PARTS.items():
            calls = {"ours": ours(data, parts), "copy": copy_call(data), **peers_of(data, parts, absent)}
            yield f"{what}, linear", shape, interleaved(calls, runs), extra_memory(calls["ours"], data)
        for what, order, law in (
            ("all, cubic", 3, "spline"),
            ("elastic, gaussian law", 1, "gaussian"),
            ("all, gaussian law", 1, "gaussian"),
        ):
            parts = PARTS["all" if what.startswith("all") else "elastic"]
            calls = {"ours": ours(data, parts, order, law), "copy": copy_call(data), "SciPy": scipy_call(data, parts, order)}
            yield what, shape, interleaved(calls, runs), extra_memory(calls["ours"], data)


def patch_calls() -> dict[str, Call]:
    """Hippocampus patches with the published recipe's probabilities: one pass against the same chain in MONAI."""
    case = volumes((36, 52, 38))
    indices = ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3)
    window, recipe = (40, 56, 40), [RandElastic(0.3, SIGMA, ALPHA), *_recipe()]
    whole = indices(dict(case))
    crop = RandDeformCropd(KEYS, "label_indices", window, 1 / 3, 0.3, recipe).set_random_state(0)
    large = RandDeformCropd(KEYS, "label_indices", window, 1 / 3, 0.3, recipe, size=(128, 128, 128)).set_random_state(0)
    settings: dict[str, Any] = {"keys": KEYS, "mode": ("bilinear", "nearest"), "padding_mode": "zeros"}
    # Its padding and indices are cached as ours are; drawing, cropping and three interpolations remain.
    padded = indices(SpatialPadd(KEYS, window)(dict(case)))
    chain = Compose(
        [
            RandCropByLabelClassesd(
                KEYS,
                "label",
                window,
                ratios=[1 - 1 / 3 - 0.3, 1 / 6 + 0.3, 1 / 6],
                num_classes=3,
                num_samples=1,
                indices_key="label_indices",
            ),
            Rand3DElasticd(prob=0.3, sigma_range=SIGMA, magnitude_range=ALPHA, **settings),
            RandAffined(prob=0.3, rotate_range=((0, TURN), (0, 0), (0, 0)), **settings),
            RandAffined(prob=0.5, scale_range=((SCALE[0] - 1, SCALE[1] - 1),) * 3, **settings),
            RandFlipd(KEYS, prob=0.3, spatial_axis=2),
        ]
    )
    chain.set_random_state(0)
    return {"ours": lambda: crop(whole), "MONAI": lambda: chain(dict(padded)), "ours, to 128³": lambda: large(whole)}


def _recipe() -> list[Any]:
    return [RandRotate(0.3, [[0, TURN], [0, 0], [0, 0]]), RandScale(0.5, SCALE), RandFlip(0.3, [2])]


def patch_means(runs: int) -> dict[str, float]:
    """Mean seconds a patch, of blocks of 20 patches run in turn: what a patch costs depends on what is drawn for it."""
    calls = patch_calls()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(runs + 1):
        for name, call in calls.items():
            seconds = clock(lambda call=call: [call() for _ in range(20)]) / 20  # type: ignore[misc]
            if turn:
                times[name].append(seconds)
    return {name: statistics.median(values) for name, values in times.items()}


def gpu_rows(runs: int):
    """As `cpu_rows`; CUDA events, 48×240×240, copy and grid_sample with a ready grid as floors."""
    device = torch.device("cuda")
    data = {key: value.to(device) for key, value in volumes(SHAPES[0]).items()}
    batch = {key: torch.stack([value] * 4) for key, value in data.items()}
    grid = torch.nn.functional.affine_grid(torch.eye(3, 4, device=device)[None], [1, 1, *SHAPES[0]], align_corners=False)
    for what, parts in PARTS.items():
        many = RandDeformBatchd(KEYS, operations(parts), [1, 0]).set_random_state(0)
        calls = {
            "ours": ours(data, parts),
            "ours, batch of 4": lambda many=many: many(batch),
            "MONAI": monai_call(data, parts, device),
            "grid_sample, image alone": lambda: torch.nn.functional.grid_sample(data["image"][None], grid, align_corners=False),
            "copy": copy_call(data),
        }
        interleaved(calls, 10, event_clock)
        yield f"{what}, linear", SHAPES[0], interleaved(calls, max(runs, 50), event_clock), math.nan


def table_of(rows: Any, columns: list[str]) -> tuple[list[str], list[list[str]]]:
    header = ["what", "shape", "ours, ms", *columns, "× copy", "extra memory, results"]
    lines = []
    for what, shape, medians, memory in rows:
        own = medians["ours"]
        others = [f"{medians[c] * 1e3:.3g} ({medians[c] / own:.3g}×)" if c in medians else "–" for c in columns]
        extra = "–" if math.isnan(memory) else f"{memory:.2f}"
        lines.append([what, "×".join(map(str, shape)), f"{own * 1e3:.3g}", *others, f"{own / medians['copy']:.3g}", extra])
        print(f"{what}, {shape}", file=sys.stderr, flush=True)
    return header, lines


def versions() -> str:
    found = []
    for name in ("numpy", "scipy", "numba", "torch", "monai", "batchgenerators", "batchgeneratorsv2", "torchio", "elasticdeform"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} absent")
    return ", ".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="counted runs of each side (median is shown)")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch, and so of every side that takes them")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure")
    parser.add_argument("--markdown", type=Path, help="also write the tables to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    where = machine()
    if arguments.device == "cuda":
        if not torch.cuda.is_available():
            print("There is no GPU here: nothing was measured.")
            return
        where = torch.cuda.get_device_name()
    absent: dict[str, str] = {}
    if arguments.device == "cuda":
        header, lines = table_of(gpu_rows(arguments.runs), ["ours, batch of 4", "MONAI", "grid_sample, image alone", "copy"])
    else:
        header, lines = table_of(cpu_rows(arguments.runs, absent), list(PEERS))
    title = (
        f"`python tests/benchmarks/bench_deform.py --runs {arguments.runs} --threads {arguments.threads}"
        f" --device {arguments.device}`, commit {commit()}, {where}, {datetime.now(UTC):%Y-%m-%d}; {versions()}"
    )
    notes = [f"{name}: absent ({why})" for name, why in absent.items()]
    if arguments.device == "cpu":
        patches = patch_means(arguments.runs)
        own, theirs, large = patches["ours"], patches["MONAI"], patches["ours, to 128³"]
        notes.append(
            "Hippocampus patches of 40×56×40 with the published recipe's probabilities: "
            f"ours {1 / own:.0f} a second, MONAI's chain {1 / theirs:.0f} ({theirs / own:.3g}×); "
            f"straight to 128×128×128: {large * 1e3:.3g} ms each."
        )
    table = Table(title=title.replace("`", ""))
    for column in header:
        table.add_column(column, justify="left" if column in ("what", "shape") else "right")
    for line in lines:
        table.add_row(*line)
    console = Console(width=200)
    console.print(table, *notes, sep="\n")
    if arguments.markdown:
        text = [title, "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        text += ["| " + " | ".join(line) + " |" for line in lines] + ["", *notes]
        arguments.markdown.write_text("\n".join(text) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
