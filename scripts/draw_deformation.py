"""Draw what each operation of a deformation does, and what the boundary modes read: the figure of docs/deformation.md.

Example:

    python scripts/draw_deformation.py docs/deformation.png
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from custom_components.atomic import atomic_path
from custom_components.errors import InputError
from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.transforms import (
    Deformation,
    Elastic,
    Flip,
    Rotate,
    Scale,
    Translate,
    deform,
    deformed_coordinates,
)

SHAPE = (120, 160)
ELASTIC = Elastic((12.0,), 180.0, 3)
OPERATIONS = {
    "nothing": Deformation(),
    "Flip((1,))": Deformation((Flip((1,)),)),
    "Rotate((0.4,))": Deformation((Rotate((0.4,)),)),
    "Scale((0.7,))": Deformation((Scale((0.7,)),)),
    "Translate((20, -30))": Deformation((Translate((20.0, -30.0)),)),
    "Elastic((12,), 180, seed=3)": Deformation((ELASTIC,)),
    "Elastic, Rotate, Scale": Deformation((ELASTIC, Rotate((0.4,)), Scale((0.7,)))),
    "Scale, Rotate, Elastic": Deformation((Scale((0.7,)), Rotate((0.4,)), ELASTIC)),
}
BEYOND = Deformation((Rotate((0.15,)), Scale((1.7,))))

app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def draw(path: Annotated[Path, typer.Argument(metavar="FILE.png", help="The picture to write.")]) -> None:
    try:
        figure = _figure()
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=100, format="png")
    except InputError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
    typer.echo(f"Wrote {path}")


def _card() -> tuple[torch.Tensor, torch.Tensor]:
    """A picture that shows orientation and lines, and a label: (1, Y, X) each."""
    y, x = np.indices(SHAPE)
    shade = 0.35 + 0.4 * x / SHAPE[1] + 0.2 * y / SHAPE[0]
    shade[(y % 20 == 10) | (x % 20 == 10)] = 0.15
    label = np.zeros(SHAPE, np.uint8)
    label[((y - 45) / 25) ** 2 + ((x - 60) / 38) ** 2 < 1] = 1
    label[((y - 80) / 18) ** 2 + ((x - 105) / 14) ** 2 < 1] = 2
    shade[:6, :] = shade[:, :6] = 1.0  # two white edges: up and left
    return torch.from_numpy(shade[None].astype(np.float32)), torch.from_numpy(label[None])


def _figure() -> Figure:
    figure = Figure(figsize=(16, 10.5), layout="constrained")
    FigureCanvasAgg(figure)
    upper, lower = np.asarray(figure.subfigures(2, 1, height_ratios=[2, 1.05])).tolist()
    upper.suptitle(
        "Arrows lead from a voxel of the result to the place it reads. Both axes are zero at the centre, shape / 2; "
        "operations act from left to right.",
        fontsize="medium",
    )
    for axes, (name, deformation) in zip(upper.subplots(2, 4).ravel(), OPERATIONS.items(), strict=True):
        _show(axes, name, deformation, "constant")
        _arrows(axes, deformation)
    lower.suptitle("Boundary modes: what lies outside the picture (the frame is its edge)", fontsize="medium")
    for axes, mode in zip(lower.subplots(1, 5), BOUNDARY_MODES, strict=True):
        _show(axes, mode, BEYOND, mode)
        edge = np.array([[0, 0], [0, 1], [1, 1], [1, 0], [0, 0]]) * (np.array(SHAPE) - 1)
        back = (np.linalg.inv(BEYOND.affine(SHAPE)) @ np.vstack([edge.T, np.ones(5)]))[:2]
        axes.plot(back[1], back[0], color="tab:red", linewidth=1)
    return figure


def _show(axes: Any, title: str, deformation: Deformation, mode: str) -> None:
    image, label = deform(list(_card()), deformation, [1, 0], mode)
    axes.imshow(image[0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    classes = np.ma.masked_equal(label[0].numpy(), 0)
    axes.imshow(classes, cmap="tab10", vmin=1, vmax=10, alpha=0.45, interpolation="nearest")
    axes.set_title(title, fontsize="medium", family="monospace")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, SHAPE[1] - 0.5), ylim=(SHAPE[0] - 0.5, -0.5))


def _arrows(axes: Any, deformation: Deformation) -> None:
    at = deformed_coordinates(deformation, SHAPE)
    y, x = (index[10::20, 10::20] for index in np.indices(SHAPE))
    moved = at[:, 10::20, 10::20]
    if not np.allclose(moved, [y, x]):
        axes.quiver(x, y, moved[1] - x, moved[0] - y, angles="xy", scale_units="xy", scale=1, width=0.003, color="tab:red")


if __name__ == "__main__":
    app()
