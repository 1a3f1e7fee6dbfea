"""`GridSpacingd`: MONAI's ``Spacingd``, whose interpolation goes along one axis after another.

A change of voxel size keeps the axes, so a cubic B-spline needs 4 values per voxel and axis instead of 64 per voxel, and no
coordinates. `tests/benchmarks/bench_inference.py` compares with SciPy's, which MONAI calls for order 3, on a whole CT.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Spacingd, SpatialResample
from monai.transforms.inverse import TraceableTransform
from monai.utils import TraceKeys
from monai.utils.type_conversion import get_torch_dtype_from_string

from custom_components.kernels.grid import resample_grid

__all__ = ["GridResample", "GridSpacingd"]

_ORDERS: Final = {0: 0, 1: 1, 3: 3, "nearest": 0, "bilinear": 1}
_PARALLEL: Final = 1e-6  # voxels of the input by which an axis may lean per voxel of the output


class GridResample(SpatialResample):
    """`SpatialResample` with `resample_grid` where both grids have the same axes; MONAI's own everywhere else.

    Labels (order 0) keep their type.
    """

    def __call__(
        self,
        img: torch.Tensor,
        dst_affine: torch.Tensor | None = None,
        spatial_size: Sequence[int] | torch.Tensor | int | None = None,
        mode: str | int | None = None,
        padding_mode: str | None = None,
        align_corners: bool | None = None,
        dtype: Any = None,
        lazy: bool | None = None,
    ) -> torch.Tensor:
        """Arguments and result as of `SpatialResample`."""
        mode = self.mode if mode is None else mode
        padding_mode = self.padding_mode if padding_mode is None else padding_mode
        plain = not (self.lazy if lazy is None else lazy) and padding_mode == "border" and mode in _ORDERS
        if plain and isinstance(img, MetaTensor) and img.ndim == 4 and dst_affine is not None and spatial_size is not None:
            size = [int(n) for n in spatial_size]  # type: ignore[union-attr]
            matrix = np.linalg.solve(img.affine.double().cpu().numpy(), torch.as_tensor(dst_affine).double().cpu().numpy())
            if _along_axes(matrix) and not _same_grid(matrix, size, img.shape[1:]):
                return self._resample(img, matrix, size, mode, padding_mode)
        return super().__call__(img, dst_affine, spatial_size, mode, padding_mode, align_corners, dtype, lazy)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """As `SpatialResample.inverse`, which would not call this class."""
        transform = self.pop_transform(data)
        extra = dict(transform[TraceKeys.EXTRA_INFO])
        align_corners = extra.get("align_corners")
        with self.trace_transform(False):
            return self(
                data,
                dst_affine=extra["src_affine"],
                spatial_size=transform[TraceKeys.ORIG_SIZE],
                mode=extra["mode"],
                padding_mode=extra["padding_mode"],
                align_corners=False if align_corners == TraceKeys.NONE else align_corners,
                dtype=get_torch_dtype_from_string(extra["dtype"]),
            )

    def _resample(self, img: MetaTensor, matrix: np.ndarray, size: list[int], mode: str | int, padding_mode: str) -> MetaTensor:
        meta = TraceableTransform.track_transform_meta(
            img,
            sp_size=torch.tensor(size),
            affine=torch.from_numpy(matrix),
            extra_info={
                "dtype": "float32",
                "mode": mode,
                "padding_mode": padding_mode,
                "align_corners": TraceKeys.NONE,
                "src_affine": img.affine.double(),
            },
            orig_size=img.shape[1:],
            transform_info=self.get_transform_info(),
            lazy=False,
        )
        origin, step = matrix[:3, 3].tolist(), np.diag(matrix)[:3].tolist()
        result = resample_grid(img.as_tensor(), origin, step, size, _ORDERS[mode])
        return MetaTensor(result).copy_meta_from(meta)  # type: ignore[no-any-return]


class GridSpacingd(Spacingd):
    """Resample to a voxel size.

    What lies beyond the outermost voxels is as they are. Grid and inverse are `Spacingd`'s.

    Args:
        keys: (C, Z, Y, X) `MetaTensor`.
        pixdim: voxel size along the array's axes, mm.
        mode: 0 or ``nearest`` (labels), 1 or ``bilinear``, or 3, cubic B-spline; one, or one per key.
        allow_missing_keys: skip keys that are absent.

    Raises:
        ValueError: another mode.
    """

    def __init__(
        self,
        keys: KeysCollection,
        pixdim: Sequence[float] | float,
        mode: str | int | Sequence[str | int] = 3,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, pixdim, mode=mode, padding_mode="border", allow_missing_keys=allow_missing_keys)  # type: ignore[arg-type]
        if not set(self.mode) <= set(_ORDERS):
            raise ValueError(f"mode: each must be one of {', '.join(str(m) for m in _ORDERS)}; got {mode!r}")
        self.spacing_transform.sp_resample = GridResample(mode=3, padding_mode="border")  # type: ignore[arg-type]


def _along_axes(matrix: np.ndarray) -> bool:
    linear = matrix[:3, :3]
    return bool((np.abs(linear - np.diag(np.diag(linear))) < _PARALLEL).all())


def _same_grid(matrix: np.ndarray, size: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether MONAI too would take the grids to be one."""
    return np.allclose(matrix, np.eye(4), atol=1e-3) and tuple(size) == tuple(shape)
