"""Resampling on CUDA through CuPy: one launch for the whole batch, on torch's current stream, on torch's memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from custom_components.kernels.aligned import copy_aligned
from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField
from custom_components.kernels.spline import spline_padding

__all__ = ["LABEL_TYPES", "SOURCE", "compiled", "launch_filter", "launch_resample", "names", "resample_cuda"]

SOURCE = Path(__file__).with_name("resample.cu")
LABEL_TYPES = {1: "unsigned char", 2: "short", 4: "int", 8: "long long"}  # by width, bytes
_STORAGE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_SCALARS = {1: np.uint8, 2: np.int16, 4: np.int32, 8: np.int64}
_THREADS = 256  # at most, as the kernels' __launch_bounds__ say
_WARP = 32
_LONGEST_LINE = 4080  # control points along x: three such lines fit the 48 KiB of shared memory of a block


def names() -> list[str]:
    """The instances of the template ``resample``."""
    return [f"resample<{order}, {label}>" for order in (1, 3) for label in LABEL_TYPES.values()]


@lru_cache(maxsize=16)
def compiled(device: int) -> Any:
    """The compiled module of a device, made once per process; CuPy keeps it on disk for the next.

    Raises:
        RuntimeError: CuPy is missing, or finds no CUDA.
    """
    try:
        import cupy
    except ImportError:
        raise RuntimeError(
            "deformation on a GPU needs CuPy: pip install cupy-cuda13x (for CUDA 12: cupy-cuda12x), or move the data to the CPU"
        ) from None
    if not cupy.cuda.is_available():
        raise RuntimeError("CuPy finds no CUDA driver that it can use; its package must fit the driver (cupy-cuda13x, -cuda12x)")
    with cupy.cuda.Device(device):
        return cupy.RawModule(code=SOURCE.read_text(), options=("--std=c++17",), name_expressions=names())


def resample_cuda(
    image: Tensor | None,
    label: Tensor | None,
    field: CoordinateField,
    size: Sequence[int],
    *,
    order: int,
    mode: str,
    image_value: float,
    label_value: int,
) -> tuple[Tensor | None, Tensor | None]:
    """`custom_components.kernels.resample.resample` for tensors on a GPU, whose arguments are checked already.

    Nothing waits for the GPU. The inputs are only read.

    Raises:
        RuntimeError: no memory, no CuPy, or a forked worker process.
        ValueError: a lattice of over 4080 control points along x, or a volume whose coefficients are over 2^31.
    """
    if torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "CUDA cannot be used in a forked worker process: deform on the CPU there, deform batches in the main process "
            "(RandDeformBatchd), or start workers with multiprocessing_context='spawn'"
        )
    given = image if image is not None else label
    assert given is not None
    index = given.device.index if given.device.index is not None else torch.cuda.current_device()
    module = compiled(index)
    import cupy

    where: dict[str, Any] = {"order": order, "mode": mode, "image_value": image_value, "label_value": label_value}
    try:
        # Everything is queued on torch's stream: its allocator then keeps each tensor until the kernel is through with it.
        stream = torch.cuda.current_stream(index)
        with torch.cuda.device(index), cupy.cuda.Device(index), cupy.cuda.Stream.from_external(stream), torch.no_grad():
            return launch_resample(module, image, label, field, tuple(size), **where)
    except torch.cuda.OutOfMemoryError as error:
        wanted = len(field) * int(np.prod(size)) * sum(v.shape[1] * v.element_size() for v in (image, label) if v is not None)
        raise RuntimeError(
            f"no memory on {given.device} for a deformed batch of {wanted} bytes ({wanted / 2**20:.0f} MiB"
            f"{', and twice the image for its coefficients' if order == 3 else ''}); the batch is unchanged: "
            "use smaller batches or patches, or deform on the CPU"
        ) from error


def launch_resample(
    module: Any,
    image: Tensor | None,
    label: Tensor | None,
    field: CoordinateField,
    size: tuple[int, ...],
    *,
    order: int,
    mode: str,
    image_value: float,
    label_value: int,
) -> tuple[Tensor | None, Tensor | None]:
    """Allocate the outputs and queue the kernels of ``module`` (of `compiled`) on the current stream."""
    given = image if image is not None else label
    assert given is not None
    device, shape, batch = given.device, tuple(given.shape[2:]), len(field)
    points = (0, 0, 0) if field.lattice is None else field.lattice.shape[2:]
    if points[2] > _LONGEST_LINE:
        raise ValueError(f"lattice: {points[2]} control points along x; a GPU takes at most {_LONGEST_LINE}")
    image_out = None if image is None else image.new_empty((batch, image.shape[1], *size))
    label_out = None if label is None else label.new_empty((batch, label.shape[1], *size))
    if copy_aligned(field, mode, [(image, image_out, image_value), (label, label_out, label_value)]):
        return image_out, label_out
    pad = spline_padding(shape, mode) if order == 3 and image is not None else (0, 0, 0)
    source = None if image is None else image.detach().contiguous()
    if source is not None and order == 3:
        source = launch_filter(module, source, mode)
    width = 1 if label is None else label.element_size()
    stored = None if label is None else label.detach().contiguous().view(_STORAGE[width])
    numbers, lattice = _upload(field, device)
    # No fewer rounds of a block over its row than its size demands, and no more threads than those rounds need.
    rounds = -(-size[2] // _THREADS)
    threads = -(-size[2] // (rounds * _WARP)) * _WARP
    arguments = (
        *(np.int32(v) for v in (*size, *shape, *points, *pad, BOUNDARY_MODES.index(mode))),
        _pointer(numbers),
        _pointer(lattice),
        _pointer(source),
        _pointer(image_out),
        np.int32(0 if image is None else image.shape[1]),
        np.float32(image_value),
        _pointer(stored),
        _pointer(label_out),
        np.int32(0 if label is None else label.shape[1]),
        np.array(label_value).astype(_SCALARS[width])[()],
    )
    kernel = module.get_function(f"resample<{order}, {LABEL_TYPES[width]}>")
    kernel((batch * size[0] * size[1],), (threads,), arguments, shared_mem=3 * 4 * points[2])
    return image_out, label_out


def launch_filter(module: Any, image: Tensor, mode: str) -> Tensor:
    """B-spline coefficients of all volumes at once: `custom_components.kernels.spline.spline_coefficients` of each.

    Args:
        module: of `compiled`.
        image: (B, C, Z, Y, X), float32, contiguous.
        mode: boundary mode.

    Returns:
        (B, C, Z + 2 p_z, Y + 2 p_y, X + 2 p_x), p of `spline_padding`.

    Raises:
        ValueError: a volume of them would have over 2^31.
    """
    pads = spline_padding(image.shape[2:], mode)
    if np.prod([n + 2 * p for n, p in zip(image.shape[2:], pads, strict=True)]) >= 2**31:
        raise ValueError(f"image: {tuple(image.shape[2:])} has too many voxels for cubic interpolation")
    kernel = module.get_function("spline_filter_axis")
    for axis in (4, 3, 2):
        n, pad = image.shape[axis], pads[axis - 2]
        if n == 1 and not pad:
            continue
        outer, inner = int(np.prod(image.shape[:axis])), int(np.prod(image.shape[axis + 1 :]))
        out = image.new_empty((*image.shape[:axis], n + 2 * pad, *image.shape[axis + 1 :]))
        # Blocks are 32 wide, as neighbours in memory are read together, and along the axis as long as they may be: their
        # threads then share what they read.
        wide = min(_WARP, inner)
        tile = (wide, _THREADS // wide)
        blocks = outer * -(-inner // tile[0]) * -(-(n + 2 * pad) // tile[1])
        counts = (np.int32(v) for v in (n, inner, pad, BOUNDARY_MODES.index(mode)))
        kernel((blocks,), tile, (_pointer(image), _pointer(out), *counts))
        image = out
    return image


def _upload(field: CoordinateField, device: torch.device) -> tuple[Tensor, Tensor | None]:
    """Per sample matrix, origin and step (18 float64), and the control points, in one copy that nothing waits for."""
    numbers = np.concatenate([field.matrix.reshape(len(field), 12), field.origin, field.step], axis=1, dtype=np.float64)
    lattice = np.empty(0, np.float32) if field.lattice is None else np.ascontiguousarray(field.lattice, dtype=np.float32)
    whole = torch.empty(numbers.nbytes + lattice.nbytes, dtype=torch.uint8, pin_memory=device.type == "cuda")
    whole[: numbers.nbytes].view(torch.float64).numpy()[:] = numbers.ravel()
    whole[numbers.nbytes :].view(torch.float32).numpy()[:] = lattice.ravel()
    whole = whole.to(device, non_blocking=True)
    points = whole[numbers.nbytes :].view(torch.float32)
    return whole[: numbers.nbytes].view(torch.float64), None if field.lattice is None else points


def _pointer(tensor: Tensor | None) -> np.uint64:
    return np.uint64(0 if tensor is None else tensor.data_ptr())
