"""`draw_deformation.py` writes the figure of the documentation, whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from scripts.draw_deformation import app


def test_a_picture_with_all_panels(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "figure.png")])
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.size == (1600, 1050)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    red = (pixels[..., 0] > 180) & (pixels[..., 1] < 90)
    assert red[: pixels.shape[0] // 2].sum() > 2000  # arrows
    assert red[pixels.shape[0] * 2 // 3 :].sum() > 1000  # frames
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, [str(tmp_path / "file" / "figure.png")])
    assert result.exit_code == 1
    assert "file" in result.output
