"""Pictures of a segmentation over its image, in three planes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from ignite import distributed as idist
from ignite.engine import Events
from monai.engines.workflow import Workflow
from PIL import Image

from custom_components.data.writing import atomic_path

__all__ = ["Overlays", "overlay"]


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
        if idist.get_rank() != 0:
            return
        for batch, output in zip(engine.state.batch, engine.state.output, strict=True):
            if len(self._drawn) == self.cases:
                return
            case = str(batch.get("case", f"case_{len(self._drawn)}"))
            image, label, pred = (np.asarray(torch.as_tensor(output[key])[0].cpu()) for key in ("image", "label", "pred"))
            self._drawn[case] = overlay(image, label, pred, self.classes, case)

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
    image: np.ndarray, reference: np.ndarray | None, prediction: np.ndarray, classes: Sequence[str], title: str = ""
) -> np.ndarray:
    """Three planes through the middle of the segmentation.

    Args:
        image, reference, prediction: (Z, Y, X), along superior, anterior, right; the last two class indices.
        classes: names of classes 1, 2, …
        title: above the picture.

    Returns:
        (height, width, 3), uint8.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = prediction > 0 if reference is None or not (reference > 0).any() else reference > 0
    where = np.argwhere(shown)
    middle = where.mean(0).round().astype(int) if len(where) else np.asarray(image.shape) // 2
    low, high = np.percentile(image, [1, 99])
    figure = Figure(figsize=(9, 3.4), layout="constrained", facecolor="black")
    colours = [f"C{i}" for i in range(1, len(classes) + 1)]
    for axis, (axes, name) in enumerate(zip(figure.subplots(1, 3), ("axial", "coronal", "sagittal"), strict=True)):
        axes.imshow(image.take(middle[axis], axis), cmap="gray", vmin=low, vmax=high, origin="lower")
        for segmentation, style in ((reference, "dashed"), (prediction, "solid")):
            if segmentation is None:
                continue
            plane = segmentation.take(middle[axis], axis)
            for index, colour in enumerate(colours, start=1):
                if 0 < (plane == index).sum() < plane.size:
                    axes.contour(plane == index, levels=[0.5], colors=colour, linestyles=style, linewidths=1.2)
        axes.set_title(name, color="white", fontsize=9)
        axes.set_axis_off()
    lines = [Line2D([], [], color=colour, label=name) for colour, name in zip(colours, classes, strict=True)]
    figure.legend(handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, labelcolor="white", fontsize=9)
    figure.suptitle(title, color="white", fontsize=10)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    buffer = io.BytesIO()
    canvas.print_png(buffer)
    return np.asarray(Image.open(buffer).convert("RGB"))
