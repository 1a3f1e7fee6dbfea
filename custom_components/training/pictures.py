"""Pictures of a segmentation over its image, and of the scores of many."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Events
from monai.data import MetaTensor
from monai.data.utils import affine_to_spacing
from monai.engines.workflow import Workflow
from PIL import Image

from custom_components.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Overlays", "overlay", "score_picture"]


class Overlays:
    """Draw the first cases an evaluator sees: reference dashed, prediction solid, one colour per class.

    Args:
        classes: names of classes 1, 2, …
        output_dir: gets ``<case>.png``, replaced at every validation, and a TensorBoard event file.
        cases: how many.
    """

    def __init__(self, classes: Sequence[str], output_dir: str | Path, cases: int = 4) -> None:
        self.classes = tuple(classes)
        self.output_dir = Path(output_dir)
        self.cases = cases
        self._drawn: dict[str, np.ndarray] = {}

    def attach(self, engine: Workflow) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.draw)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.write)

    def draw(self, engine: Workflow) -> None:
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            self.draw_case(batch, output)

    def draw_case(self, batch: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Draw one case, if fewer than ``cases`` are drawn: its entry in the batch, and what the engine made of it."""
        if idist.get_rank() != 0 or len(self._drawn) == self.cases:
            return
        case = str(batch.get("case", f"case_{len(self._drawn)}"))
        label = output["label"]
        spacing = affine_to_spacing(label.affine).tolist() if isinstance(label, MetaTensor) else (1, 1, 1)
        image, label, pred = (np.asarray(torch.as_tensor(output[key])[0].cpu()) for key in ("image", "label", "pred"))
        self._drawn[case] = overlay(image, label, pred, self.classes, case, spacing)

    def write(self, engine: Workflow) -> None:
        if not self._drawn:
            return
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training draws

        with SummaryWriter(str(self.output_dir)) as writer:
            for case, picture in self._drawn.items():
                writer.add_image(f"overlay/{case}", picture, engine.state.epoch, dataformats="HWC")
                with atomic_path(self.output_dir / f"{case}.png") as temporary:
                    Image.fromarray(picture).save(temporary)
        self._drawn = {}


def overlay(
    image: np.ndarray,
    reference: np.ndarray,
    prediction: np.ndarray,
    classes: Sequence[str],
    title: str = "",
    spacing: Sequence[float] = (1, 1, 1),
) -> np.ndarray:
    """Three planes through the middle of the reference (of the prediction, where that is empty).

    Args:
        image, reference, prediction: (Z, Y, X), along superior, anterior, right; the last two class indices.
        classes: names of classes 1, 2, …
        title: above the picture.
        spacing: voxel size along z, y, x, mm.

    Returns:
        (height, width, 3), uint8.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = reference > 0 if (reference > 0).any() else prediction > 0
    where = np.argwhere(shown)
    middle = where.mean(0).round().astype(int) if len(where) else np.asarray(image.shape) // 2
    low, high = np.percentile(image, [1, 99])
    figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor="black")
    colours = [f"C{i}" for i in range(1, len(classes) + 1)]
    for axis, (axes, name) in enumerate(zip(figure.subplots(1, 3), ("axial", "coronal", "sagittal"), strict=True)):
        down, across = (spacing[i] for i in range(3) if i != axis)
        plane = image.take(middle[axis], axis)
        axes.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower", aspect=down / across)
        for segmentation, style in ((reference, "dashed"), (prediction, "solid")):
            plane = segmentation.take(middle[axis], axis)
            for index, colour in enumerate(colours, start=1):
                if 0 < (plane == index).sum() < plane.size:
                    axes.contour(plane == index, levels=[0.5], colors=colour, linestyles=style, linewidths=1.2)
        axes.set_title(name, color="white", fontsize=9)
        axes.set_axis_off()
    lines = [Line2D([], [], color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, labelcolor="white", fontsize=9)
    figure.suptitle(title, color="white", fontsize=10)
    return _pixels(figure)


def score_picture(cases: Mapping[str, Mapping[str, Mapping[str, float]]]) -> np.ndarray:
    """Box plots of every metric, one box per class, one dot per case; undefined scores are left out.

    Args:
        cases: case to class to metric to score, as `custom_components.training.score_case` gives them; at least one.

    Returns:
        (height, width, 3), uint8.
    """
    from matplotlib.figure import Figure

    first = next(iter(cases.values()))
    classes, metrics = list(first), list(next(iter(first.values())))
    figure = Figure(figsize=(3.2 * len(metrics), 3.6), layout="constrained")
    for axes, metric in zip(np.atleast_1d(figure.subplots(1, len(metrics))), metrics, strict=True):
        values = [[s[c][metric] for s in cases.values() if not math.isnan(s[c][metric])] for c in classes]
        axes.boxplot(values, tick_labels=classes, widths=0.6, showfliers=False)
        for place, column in enumerate(values, start=1):
            # Spread sideways by rank, not at random: the same scores give the same picture.
            spread = place + np.linspace(-0.2, 0.2, len(column)) if len(column) > 1 else [place] * len(column)
            axes.plot(spread, column, ".", markersize=3, alpha=0.5)
        axes.set_title(metric.replace("_", " "))
        axes.tick_params(axis="x", labelrotation=30 if len(classes) > 3 else 0)
        axes.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{len(cases)} cases", fontsize=10)
    return _pixels(figure)


def _pixels(figure: Figure) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    with Image.open(buffer) as picture:
        return np.asarray(picture.convert("RGB"))
