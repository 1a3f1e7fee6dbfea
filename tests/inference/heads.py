"""Heads with hippocampi where MNI152 has them, and a segmenter that knows the answer."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch
from monai.data import MetaTensor
from nibabel.affines import apply_affine, from_matvec
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from custom_components.domain import Domain
from custom_components.errors import InputError

TISSUE, ANTERIOR, POSTERIOR = 50, 150, 220


@dataclass
class Oracle:
    """Segments by grey level, as a perfect network would."""

    domain: Domain
    swapped: bool = False

    def segment(self, image: MetaTensor) -> SimpleNamespace:
        values = image.as_tensor()
        if values.max() == values.min():
            raise InputError("the image is constant")
        first, second = (POSTERIOR, ANTERIOR) if self.swapped else (ANTERIOR, POSTERIOR)
        return SimpleNamespace(label=((values == first) + 2 * (values == second)).to(torch.uint8))


def head(
    codes: str = "RAS", spacing: tuple[float, ...] = (2.0, 2.0, 2.5), shift: tuple[float, ...] = (0, 0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """A head with two hippocampi of about 3 cm³ where MNI152 has them, moved by ``shift`` mm, and its affine."""
    shape = tuple(int(180 / s) for s in spacing)
    affine = from_matvec(np.diag(spacing), [-89.0, -112.0, -80.0])
    where = apply_affine(affine, np.stack(np.indices(shape), axis=-1)) - shift
    values = np.full(shape, TISSUE, np.int16)
    for x in (-27, 27):
        for (y, z), radius, level in (((-32, -11), (6, 12, 6), POSTERIOR), ((-16, -19), (7, 8, 7), ANTERIOR)):
            values[(((where - (x, y, z)) / radius) ** 2).sum(axis=-1) < 1] = level
    orientation = ornt_transform(axcodes2ornt(tuple("RAS")), axcodes2ornt(tuple(codes)))
    return apply_orientation(values, orientation), affine @ inv_ornt_aff(orientation, shape)


def truth(values: np.ndarray) -> np.ndarray:
    return ((values == ANTERIOR) + 2 * (values == POSTERIOR)).astype(np.uint8)


def tensor(values: np.ndarray, affine: np.ndarray) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=affine)
