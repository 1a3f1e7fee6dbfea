"""The CUDA kernels give what SciPy gives: run on the CPU, compiled by NVRTC, and on a GPU where there is one."""

from __future__ import annotations

import sys
import tomllib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from custom_components.kernels import resample_cuda as module
from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField
from custom_components.kernels.resample import resample, resample_reference
from custom_components.kernels.spline import spline_coefficients
from tests.kernels.cuda_on_host import HostModule, host_compiler
from tests.kernels.nvrtc import compile_cubin
from tests.kernels.test_resample import away_from_ties, random_field, volumes

NEAR_TIES = 5  # labels of a batch that float32 may round to the other side
SIZE = (13, 18, 37)
VALUES: dict[str, Any] = {"order": 1, "mode": "constant", "image_value": 1.5, "label_value": 7}


def same(found: Any, expected: Any, field: CoordinateField, shape: tuple[int, ...]) -> None:
    """Images within 1e-4 of their range on 99.99 % of the voxels; labels too, but for `NEAR_TIES`."""
    (image, label), (expected_image, expected_label) = ([v.cpu().numpy() for v in pair] for pair in (found, expected))
    size = image.shape[2:]
    sure = away_from_ties(field, size, shape)
    error, extent = np.abs(image - expected_image), float(np.ptp(expected_image))
    assert np.quantile(error, 0.9999) < 1e-4 * extent
    assert error[np.broadcast_to(sure, error.shape)].max() < 1e-3 * extent
    assert np.array_equal(label[sure], expected_label[sure])
    assert (label != expected_label).sum() <= NEAR_TIES
    assert label.dtype == expected_label.dtype


def case(shape: tuple[int, int, int], size: tuple[int, int, int] = SIZE) -> tuple[torch.Tensor, torch.Tensor, CoordinateField]:
    image, label = volumes(shape, batch=2, channels=2)
    field = random_field(size, batch=2)
    if 1 in shape:  # SciPy has no spline along one voxel, and reads nothing beside it in mode constant
        field.matrix[:, shape.index(1)] = 0
        field.lattice[:, shape.index(1)] = 0
    return image, label, field


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostModule:
    compiler = host_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to run the CUDA kernels on the CPU")
    return HostModule(module.SOURCE, [*module.names(), "spline_filter_axis"], tmp_path_factory.mktemp("cuda"), compiler)


# Along an axis of 2 or 3 voxels SciPy's own coefficients of mode reflect are off by up to 3e-3: see test_host_coefficients.
@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", [(17, 12, 21), (1, 24, 19), (6, 1, 9), (5, 7, 1), (40, 3, 4)])
def test_host_equal_to_scipy(host: HostModule, shape: tuple[int, int, int], order: int, mode: str) -> None:
    image, label, field = case(shape)
    values = VALUES | {"order": order, "mode": mode}
    found = module.launch_resample(host, image, label, field, SIZE, **values)
    same(found, resample_reference(image, label, field, SIZE, **values), field, shape)


@pytest.mark.parametrize("size", [(3, 4, 1), (2, 3, 300), (1, 2, 700)])
def test_host_rows_of_any_length(host: HostModule, size: tuple[int, int, int]) -> None:
    image, label, field = case((9, 10, 31), size)
    found = module.launch_resample(host, image, label, field, size, **VALUES | {"mode": "mirror"})
    same(found, resample_reference(image, label, field, size, **VALUES | {"mode": "mirror"}), field, (9, 10, 31))


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("shape", [(15, 20, 13), (1, 300, 5), (7, 1, 40), (3, 2, 1), (40, 3, 300)])
def test_host_coefficients(host: HostModule, shape: tuple[int, int, int], mode: str) -> None:
    image = volumes(shape, batch=2, channels=3)[0]
    found = module.launch_filter(host, image, mode)
    expected = torch.stack([torch.stack([spline_coefficients(channel, mode) for channel in sample]) for sample in image])
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_host_labels_alone_of_any_integer_type(host: HostModule, dtype: torch.dtype) -> None:
    label = volumes((9, 10, 11))[1]
    label = (label > 1) if dtype == torch.bool else (label.to(dtype) - (2 if dtype.is_signed else 0))
    field, value = random_field((8, 9, 10)), -1 if dtype.is_signed else 1
    image_out, found = module.launch_resample(host, None, label, field, (8, 9, 10), **VALUES | {"label_value": value})
    assert image_out is None
    assert found.dtype == dtype
    assert torch.equal(found.long(), resample_reference(None, label.long(), field, (8, 9, 10), label_value=value)[1])


def test_host_samples_with_and_without_displacement(host: HostModule) -> None:
    image, label = volumes((10, 11, 12), batch=3, channels=1)
    size = (9, 9, 20)
    single = [random_field(size, seed=1), random_field(size, elastic=False, seed=2), random_field(size, seed=3)]
    joint = module.launch_resample(host, image, label, CoordinateField.stack(single), size, **VALUES)
    for b, field in enumerate(single):
        one = slice(b, b + 1)
        expected = resample_reference(image[one], label[one], field, size, **VALUES)
        for found in (module.launch_resample(host, image[one], label[one], field, size, **VALUES), [v[one] for v in joint]):
            same(found, expected, field, (10, 11, 12))


def test_host_strided_image_alone(host: HostModule) -> None:
    image, label, field = case((12, 13, 14))
    strided = image.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    expected, _ = module.launch_resample(host, image, label, field, SIZE, **VALUES)
    found, none = module.launch_resample(host, strided, None, field, SIZE, **VALUES)
    assert none is None
    assert torch.equal(found, expected)


@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("mode", BOUNDARY_MODES)
def test_host_no_coordinate_leaves_the_memory(host: HostModule, mode: str, order: int) -> None:
    image, label, field = case((1, 6, 7))
    values = VALUES | {"order": order, "mode": mode}
    field.lattice[:] = np.nan
    found, labels = module.launch_resample(host, image, label, field, SIZE, **values)
    assert (found == 1.5).all() and (labels == 7).all()
    for huge in (1e9, -1e9, 1e37, -1e37):
        far = random_field(SIZE, batch=2, elastic=False).moved((huge, huge, huge))
        found, labels = module.launch_resample(host, image, label, far, SIZE, **values)
        assert found.isfinite().all()
        assert mode == "constant" or (labels < 4).all()


def test_host_flips_by_whole_voxels_are_copies(host: HostModule) -> None:
    image, label = volumes((7, 8, 9))
    field = CoordinateField(np.array([[[-1.0, 0, 0, 6], [0, 1, 0, -3], [0, 0, -1, 10]]]))
    found = module.launch_resample(host, image, label, field, (7, 8, 9), **VALUES | {"order": 3})
    expected = resample(image, label, field, (7, 8, 9), **VALUES | {"order": 3})
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_host_lattices_beyond_shared_memory_are_refused(host: HostModule) -> None:
    image, label = volumes((4, 4, 4))
    for points, fits in ((4080, True), (4081, False)):
        field = CoordinateField(0.5 * np.eye(3, 4)[None], np.zeros((1, 3, 4, 4, points), np.float32))
        with nullcontext() if fits else pytest.raises(ValueError, match="control points"):
            module.launch_resample(host, image, label, field, (1, 1, 4), **VALUES)


def test_reasons_for_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    image, _, field = case((4, 4, 4))
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(RuntimeError, match=r"on the CPU there.*multiprocessing_context='spawn'"):
        module.resample_cuda(image, None, field, SIZE, **VALUES)
    module.compiled.cache_clear()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(RuntimeError, match=r"pip install cupy-cuda13x .*cupy-cuda12x"):
        module.compiled(0)


def test_no_memory_says_how_much(monkeypatch: pytest.MonkeyPatch) -> None:
    image, label, field = case((4, 4, 4))
    before = image.clone()

    def out_of_memory(*_: Any, **__: Any) -> None:
        raise torch.cuda.OutOfMemoryError

    context = SimpleNamespace(Device=nullcontext, Stream=SimpleNamespace(from_external=nullcontext))
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(cuda=context))
    for name, fake in (("current_device", lambda: 0), ("current_stream", lambda _: None), ("device", nullcontext)):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(module, "compiled", lambda _: None)
    monkeypatch.setattr(module, "launch_resample", out_of_memory)
    with pytest.raises(RuntimeError, match=f"{2 * 13 * 18 * 37 * (2 * 4 + 1)} bytes.*smaller batches.*on the CPU"):
        module.resample_cuda(image, label, field, SIZE, **VALUES)
    assert torch.equal(image, before)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_compiles_every_instance(architecture: str) -> None:
    binary, instances = compile_cubin(module.SOURCE.read_text(), module.names(), architecture)
    kernels = [*instances, "spline_filter_axis"]
    assert len(set(kernels)) == 9
    assert all(f".text.{kernel}".encode() in binary for kernel in kernels)


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_gpu_equal_to_cpu(cuda: torch.device, dtype: torch.dtype, order: int, mode: str) -> None:
    image, label, field = case((17, 12, 21))
    values = VALUES | {"order": order, "mode": mode}
    found = resample(image.to(cuda), label.to(dtype).to(cuda), field, SIZE, **values)
    assert all(v.device == cuda for v in found)
    same(found, resample(image, label.to(dtype), field, SIZE, **values), field, (17, 12, 21))


def test_gpu_strided_inputs_on_another_stream_without_synchronisation(cuda: torch.device) -> None:
    image, label, field = case((17, 12, 21))
    values = VALUES | {"order": 3, "mode": "reflect"}
    strided = [v.to(cuda).permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2) for v in (image, label)]
    resample(*strided, field, SIZE, **values)  # compiles
    stream = torch.cuda.Stream(cuda)
    stream.wait_stream(torch.cuda.current_stream(cuda))
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(50_000_000)  # a kernel on another stream would read the copies before they are written
            later = [v.clone(memory_format=torch.preserve_format) for v in strided]
            found = resample(*later, field, SIZE, **values)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stream.synchronize()
    same(found, resample(image, label, field, SIZE, **values), field, (17, 12, 21))


def test_gpu_without_memory_says_what_to_do(cuda: torch.device) -> None:
    image = volumes((4, 4, 4))[0].to(cuda)
    with pytest.raises(RuntimeError, match="smaller batches"):
        resample(image, None, CoordinateField(0.5 * np.eye(3, 4)[None]), (8000, 8000, 8000))
    assert image.isfinite().all()


def test_the_kernels_are_part_of_the_package(repository: Path) -> None:
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    assert "**/*.cu" in settings["tool"]["setuptools"]["package-data"]["custom_components"]
