"""The CUDA source: run as loops on the CPU, compiled by NVRTC without a driver, and on a GPU where there is one."""

from __future__ import annotations

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from custom_components.kernels.boundary import BOUNDARY_MODES
from custom_components.kernels.coordinates import CoordinateField
from custom_components.kernels.resample import resample, resample_reference
from custom_components.kernels.resample_cuda import SOURCE, names
from custom_components.kernels.spline import spline_coefficients
from tests.kernels.cuda_on_host import build, filtered, resample_on_host
from tests.kernels.test_resample import away_from_ties, random_field, volumes

SHAPES = [(11, 12, 13), (1, 16, 14), (6, 1, 9), (5, 7, 1)]
SIZE = (7, 9, 37)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("cuda_on_host"))


def case(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor, CoordinateField]:
    image, label = volumes(shape, batch=2, channels=2)
    field = random_field(SIZE, batch=2, seed=sum(shape))
    if 1 in shape:
        field.matrix[:, shape.index(1)] = 0
        field.lattice[:, shape.index(1)] = 0
    return image, label, field


def assert_equal_but_for_ties(found, expected, field: CoordinateField, shape: tuple[int, ...], span: float) -> None:
    error = (found[0].cpu() - expected[0]).abs().numpy()
    sure = away_from_ties(field, SIZE, shape)
    assert np.quantile(error, 0.9999) < 1e-4 * span
    assert error[np.broadcast_to(sure, error.shape)].max() < 1e-3 * span
    assert np.array_equal(found[1].cpu().numpy()[sure], expected[1].numpy()[sure])


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_source_run_on_the_cpu_equals_scipy(library: ctypes.CDLL, shape: tuple[int, int, int], order: int, mode: str) -> None:
    image, label, field = case(shape)
    values = {"order": order, "mode": mode, "image_value": 1.5, "label_value": 7}
    found = resample_on_host(library, image, label, field, SIZE, **values)
    expected = resample_reference(image, label, field, SIZE, **values)
    assert_equal_but_for_ties(found, expected, field, shape, float(np.ptp(image)))
    affine = CoordinateField(field.matrix)
    found = resample_on_host(library, image, label, affine, SIZE, **values)
    assert_equal_but_for_ties(
        found, resample_reference(image, label, affine, SIZE, **values), affine, shape, float(np.ptp(image))
    )


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_filter_run_on_the_cpu_equals_numba(library: ctypes.CDLL, shape: tuple[int, int, int], mode: str) -> None:
    image = volumes(shape)[0]
    expected = spline_coefficients(image[0, 0], mode).numpy()
    np.testing.assert_allclose(filtered(library, image.numpy(), mode)[0, 0], expected, atol=1e-5 * float(np.ptp(expected)))


def test_coordinates_that_are_no_numbers_are_outside(library: ctypes.CDLL) -> None:
    image, label, field = case((11, 12, 13))
    field.lattice[:] = np.nan
    for mode in BOUNDARY_MODES:
        found = resample_on_host(library, image, label, field, SIZE, order=1, mode=mode, image_value=4.0, label_value=3)
        assert (found[0] == 4).all()
        assert (found[1] == 3).all()


def nvrtc() -> ctypes.CDLL:
    """NVRTC of the package nvidia-cuda-nvrtc, or of the system: it compiles without a driver."""
    package = importlib.util.find_spec("nvidia")
    folders = [Path(p) for p in (package.submodule_search_locations or [])] if package else []
    places = [str(p) for folder in folders for p in sorted(folder.glob("**/libnvrtc.so*"))]
    for place in [*places, "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]:
        try:
            return ctypes.CDLL(place)
        except OSError:
            continue
    pytest.skip("NVRTC is not here to compile the CUDA source with: pip install nvidia-cuda-nvrtc")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_compiles_every_instance(architecture: str) -> None:
    compiler = nvrtc()
    program = ctypes.c_void_p()
    source = SOURCE.read_bytes()
    assert compiler.nvrtcCreateProgram(ctypes.byref(program), source, b"resample.cu", 0, None, None) == 0
    for name in names():
        assert compiler.nvrtcAddNameExpression(program, name.encode()) == 0
    options = (ctypes.c_char_p * 2)(f"--gpu-architecture={architecture}".encode(), b"--std=c++17")
    status = compiler.nvrtcCompileProgram(program, 2, options)
    length = ctypes.c_size_t()
    compiler.nvrtcGetProgramLogSize(program, ctypes.byref(length))
    log = ctypes.create_string_buffer(length.value)
    compiler.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    compiler.nvrtcGetCUBINSize(program, ctypes.byref(length))
    assert length.value > 10_000
    lowered = ctypes.c_char_p()
    for name in names():
        assert compiler.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0
        assert lowered.value.startswith(b"_Z8resample")
    compiler.nvrtcDestroyProgram(ctypes.byref(program))


@pytest.fixture
def gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("no GPU: tests/gpu/README.md lists what waits for one")
    cupy = pytest.importorskip("cupy")
    if not cupy.cuda.is_available():
        pytest.skip("CuPy finds no driver")
    return torch.device("cuda")


@pytest.mark.parametrize("mode", BOUNDARY_MODES)
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_equals_cpu(gpu: torch.device, shape: tuple[int, int, int], order: int, mode: str) -> None:
    image, label, field = case(shape)
    values = {"order": order, "mode": mode, "image_value": 1.5, "label_value": 7}
    found = resample(image.to(gpu), label.to(gpu), field, SIZE, **values)
    assert_equal_but_for_ties(found, resample(image, label, field, SIZE, **values), field, shape, float(np.ptp(image)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64])
def test_gpu_labels_of_any_type_strides_and_streams(gpu: torch.device, dtype: torch.dtype) -> None:
    image, label, field = case((11, 12, 13))
    label = (label > 1) if dtype == torch.bool else label.to(dtype)
    strided = label.to(gpu).permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = resample(image.to(gpu), strided, field, SIZE)
    stream.synchronize()
    assert found[1].dtype == dtype
    assert_equal_but_for_ties(found, resample(image, label, field, SIZE), field, (11, 12, 13), float(np.ptp(image)))


def test_gpu_out_of_memory_is_a_clear_error(gpu: torch.device) -> None:
    image, field = torch.zeros(1, 1, 8, 8, 8, device=gpu), CoordinateField(np.eye(3, 4)[None])
    with pytest.raises(RuntimeError, match="smaller batches"):
        resample(image, None, field, (40_000, 4_000, 4_000))
    assert torch.equal(resample(image, None, field, (8, 8, 8))[0], image)


def test_a_forked_worker_gets_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from custom_components.kernels.resample_cuda import resample_cuda

    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    image, _, field = case((11, 12, 13))
    with pytest.raises(RuntimeError, match="spawn"):
        resample_cuda(image, None, field, SIZE, order=1, mode="constant", image_value=0.0, label_value=0)
