"""The CUDA depthwise convolution: run on the CPU, compiled by NVRTC, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from custom_components.kernels import cuda as shared
from custom_components.kernels import depthwise, depthwise_conv3d, depthwise_conv3d_reference, dispatch
from custom_components.kernels import depthwise_cuda as module
from tests.kernels.cuda_on_host import HostModule, host_compiler
from tests.kernels.nvrtc import compile_cubin
from tests.kernels.test_depthwise import CASES, operands

KERNELS, STRIDES = [(3, 3, 3), (1, 3, 3), (1, 1, 1)], [(1, 1, 1), (2, 2, 2), (1, 2, 2), (2, 1, 2)]
ALL = [
    *CASES,
    *(((2, 3, 7, 9, 5), k, s) for k in KERNELS for s in STRIDES),
    ((1, 2, 37, 3, 4), (3, 3, 3), (1, 1, 1)),  # several chunks of planes
    ((1, 2, 3, 16, 700), (1, 3, 3), (1, 1, 1)),  # rows longer than a block
    ((2, 1, 5, 50, 40), (3, 3, 3), (1, 2, 2)),  # several blocks per volume
    ((1, 2, 9, 40, 60), (3, 5, 7), (1, 1, 2)),  # several parts of the output, filter rows of several groups
]
# What rounding to 16 bits leaves of float32's exactness: a result is off by half a step (2^-11 and 2^-8 of it).
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2**-11 + 1e-5, torch.bfloat16: 2**-8 + 1e-5}


def case(
    shape: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype
) -> tuple[list[Tensor], Any]:
    """x, weight, bias and gradient; forward and gradients of the reference in float64, from numbers as they are stored."""
    inputs = [t.detach().to(dtype) for t in operands(shape, kernel)]
    doubles = [t.double().requires_grad_() for t in inputs]
    out = depthwise_conv3d_reference(*doubles, stride)
    gradient = torch.randn_like(out).to(dtype)
    return [*inputs, gradient], [out, *torch.autograd.grad(out, doubles, gradient.double())]


def same(found: Any, expected: Any, dtype: torch.dtype, cancelled: float = 0.0) -> None:
    """Within the tolerance of the largest value (and what is left where large terms cancel), of the same shape and type."""
    for a, e in zip(found, expected, strict=True):
        assert a.shape == e.shape
        assert a.dtype == dtype
        assert a.is_contiguous()
        assert (a.double().cpu() - e).abs().max() <= TOLERANCES[dtype] * e.abs().max() + cancelled


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> shared.Kernels:
    compiler = host_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to run the CUDA kernels on the CPU")
    folder, files = tmp_path_factory.mktemp("depthwise"), [shared.COMMON, module.SOURCE]
    return HostModule(files, module.NAMES, folder, compiler, dynamic="sums_in_block", static=()).get_function


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("shape", "kernel", "stride"), ALL)
def test_host_equal_to_torch_in_float64(host: shared.Kernels, shape: Any, kernel: Any, stride: Any, dtype: torch.dtype) -> None:
    (x, w, b, gradient), expected = case(shape, kernel, stride, dtype)
    out = module.launch_forward(host, x, w, b, stride)
    same([out, *module.launch_backward(host, gradient, x, w, stride, True)], expected, dtype)


@pytest.mark.parametrize("planes", [16, 8, 4])
def test_host_chunks_of_any_depth(host: shared.Kernels, planes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DEPTHS", (planes,))
    for kernel in ((3, 3, 3), (1, 3, 3)):
        (x, w, b, gradient), expected = case((1, 2, 21, 5, 6), kernel, (1, 1, 1), torch.float32)
        out = module.launch_forward(host, x, w, b, (1, 1, 1))
        same([out, *module.launch_backward(host, gradient, x, w, (1, 1, 1), True)], expected, torch.float32)


@pytest.mark.parametrize("stride", [(1, 1, 1), (2, 2, 2)])
def test_host_strided_memory_mixed_types_and_an_input_without_gradient(host: shared.Kernels, stride: Any) -> None:
    (x, w, b, gradient), expected = case((2, 3, 7, 9, 5), (3, 3, 3), stride, torch.float16)
    x, gradient = (t.transpose(2, 4).contiguous().transpose(2, 4) for t in (x, gradient))
    w, b = w.float().to(memory_format=torch.channels_last_3d), b.float()
    same([module.launch_forward(host, x, w, b, stride)], expected[:1], torch.float16)
    empty, *others = module.launch_backward(host, gradient, x, w, stride, False)
    assert empty.numel() == 0
    same(others, expected[2:], torch.float32)


def test_host_16_bit_numbers_round_as_torch_does(host: shared.Kernels) -> None:
    """Through a filter of one tap: every number of 16 bits, infinities and NaN, and halves between two of them."""
    values = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = values.view(dtype).view(1, 1, 16, 64, 64)
        for scale in (1.0, 1.0 + 2.0**-9, 1.0 + 2.0**-12):
            w = torch.full((1, 1, 1, 1, 1), scale)
            found = module.launch_forward(host, x, w, torch.zeros(1), (1, 1, 1))
            assert torch.equal(found.nan_to_num(7), (x.float() * scale).to(dtype).nan_to_num(7))


def test_host_results_share_no_memory(host: shared.Kernels) -> None:
    (x, w, _, gradient), _ = case((2, 1, 5, 4, 3), (3, 3, 3), (1, 1, 1), torch.float32)  # one channel: slices are contiguous
    results = module.launch_backward(host, gradient, x, w, (1, 1, 1), True)
    assert len({t.untyped_storage().data_ptr() for t in results}) == 3


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_compiles_every_instance(architecture: str) -> None:
    binary, kernels = compile_cubin(shared.COMMON.read_text() + module.SOURCE.read_text(), module.NAMES, architecture)
    assert len(set(kernels)) == 21
    assert all(f".text.{kernel}".encode() in binary for kernel in kernels)


@contextlib.contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, *, cupy: bool = True) -> Any:
    """Tensors on a GPU that is not there: shapes and types of what would run."""
    monkeypatch.setattr(dispatch, "usable", lambda: cupy)
    with FakeTensorMode() as mode:
        yield mode


def fakes(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """x, weight and bias on that GPU."""
    return [torch.empty(s, dtype=dtype, device="cuda") for s in ((2, 3, 7, 9, 5), (3, 1, 3, 3, 3), (3,))]


def operators(call: Callable[[], Any]) -> list[str]:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    seen: list[str] = []
    with Names():
        call()
    return [name for name in seen if "u2net" in name or "convolution" in name]


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dispatch_takes_the_kernels_where_cupy_is(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    with fake_gpu(monkeypatch):
        x, w, b = fakes(dtype)
        assert operators(lambda: depthwise_conv3d(x, w, b, (2, 1, 2))) == ["u2net.depthwise_conv3d.default"]
        out = depthwise_conv3d(x, w, b, (2, 1, 2))
        gradients = torch.ops.u2net.depthwise_conv3d_backward(out, x, w, [2, 1, 2], True)
        assert [(t.shape, t.dtype) for t in gradients] == [(t.shape, dtype) for t in (x, w, b)]


def test_the_operators_have_kernels_for_cuda() -> None:
    for name in ("depthwise_conv3d", "depthwise_conv3d_backward", "instance_norm_act", "instance_norm_act_backward"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"u2net::{name}", "CUDA")


def test_dispatch_without_cupy_or_for_other_types_is_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_gpu(monkeypatch, cupy=False):
        assert operators(lambda: depthwise_conv3d(*fakes())) == ["aten.convolution.default"]
    with fake_gpu(monkeypatch):
        assert operators(lambda: depthwise_conv3d(*fakes(torch.float64))) == ["aten.convolution.default"]
        x, w, _ = fakes()
        assert dispatch.fast(x, w) and not dispatch.fast_cpu(x, w)
        assert not dispatch.fast(x.half(), w)
        assert not dispatch.fast(x, w.cpu())
        assert not dispatch.fast(x.new_empty((1, 1, 1024, 1024, 1024)), w)
        monkeypatch.setenv("U2NET_KERNELS", "reference")
        assert not dispatch.fast(x, w)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_dispatch_under_autocast(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(dispatch.torch, "is_autocast_enabled", lambda device: device == "cuda")
    monkeypatch.setattr(dispatch.torch, "get_autocast_dtype", lambda _: dtype)  # autocast itself refuses without a GPU
    with fake_gpu(monkeypatch):
        x, w, b = fakes()
        for stored in (x, x.to(dtype)):
            assert dispatch.fast(stored, w)
            assert depthwise_conv3d(stored, w, b).dtype == dtype
            gradients = torch.ops.u2net.depthwise_conv3d_backward(stored, stored, w, [1, 1, 1], True)
            assert [t.dtype for t in gradients] == [stored.dtype, torch.float32, torch.float32]


def test_the_gpu_is_asked_for_once_and_compile_does_not_look_inside() -> None:
    shared._found.cache_clear()
    answer = shared.usable()
    assert torch.compile(lambda x: x + 1 if shared.usable() else x - 1, backend="eager", fullgraph=True)(torch.zeros(1)) == (
        1 if answer else -1
    )
    assert shared._found.cache_info().misses == 1


def test_without_cupy_the_answer_is_no(monkeypatch: pytest.MonkeyPatch) -> None:
    shared._found.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "cupy", None)
    assert not shared.usable()
    shared._found.cache_clear()


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize(("shape", "kernel", "stride"), ALL)
def test_gpu_equal_to_torch_in_float64(cuda: torch.device, shape: Any, kernel: Any, stride: Any, dtype: torch.dtype) -> None:
    (*inputs, gradient), expected = case(shape, kernel, stride, dtype)
    inputs = [t.to(cuda).requires_grad_() for t in inputs]
    assert dispatch.fast_cuda(inputs[0], inputs[1])
    out = depthwise_conv3d(*inputs, stride)
    same([out, *torch.autograd.grad(out, inputs, gradient.to(cuda))], expected, dtype)


def test_gpu_gives_the_same_bits_again(cuda: torch.device) -> None:
    x, w, b = (t.detach().to(cuda).requires_grad_() for t in operands((2, 4, 33, 40, 50), (3, 3, 3)))
    first, second = (torch.autograd.grad(depthwise_conv3d(x, w, b).square().sum(), [x, w, b]) for _ in range(2))
    assert all(torch.equal(a, c) for a, c in zip(first, second, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_autocast_keeps_parameters_in_float32(cuda: torch.device, dtype: torch.dtype) -> None:
    x, w, b = (t.detach().to(cuda).requires_grad_() for t in operands((2, 3, 7, 9, 5), (3, 3, 3)))
    expected = depthwise_conv3d_reference(x.detach().to(dtype).double(), w.double(), b.double())
    with torch.autocast("cuda", dtype):
        out = depthwise_conv3d(x, w, b)
    same([out.detach()], [expected.detach().cpu()], dtype)
    out.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 and t.grad.isfinite().all() for t in (x, w, b))


def test_gpu_compiled_by_torch(cuda: torch.device) -> None:
    inputs = [t.detach().to(cuda).requires_grad_() for t in operands((2, 3, 7, 9, 5), (3, 3, 3))]
    step = torch.compile(lambda *a: depthwise_conv3d(*a, (2, 1, 2)).square().sum(), fullgraph=True)
    found = torch.autograd.grad(step(*inputs), inputs)
    expected = torch.autograd.grad(depthwise_conv3d(*inputs, (2, 1, 2)).square().sum(), inputs)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)


def test_gpu_on_another_stream_without_synchronisation(cuda: torch.device) -> None:
    x, w, b = (t.detach().to(cuda) for t in operands((2, 3, 17, 19, 15), (3, 3, 3)))
    expected = [depthwise_conv3d(x * k, w, b) for k in (2.0, 3.0)]  # compiles
    streams = [torch.cuda.Stream(cuda) for _ in range(2)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(cuda))
    found = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for stream, k in zip(streams, (2.0, 3.0), strict=True):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(50_000_000)  # a kernel on another stream would read the product before it is written
                found.append(depthwise_conv3d(x * k, w, b))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize(cuda)
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True))


def test_a_module_of_its_own_for_each_device_and_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []

    class Fake:
        def __init__(self, **settings: Any) -> None:
            made.append(settings["name_expressions"])

        def get_function(self, name: str) -> str:
            return name

    monkeypatch.setitem(__import__("sys").modules, "cupy", type("cupy", (), {"RawModule": Fake}))
    for cached in (shared._kernel, shared._module):
        cached.cache_clear()
    try:
        for device, name in ((0, "a"), (0, "b"), (1, "a"), (0, "a")):
            assert shared._kernel(module.SOURCE, module.NAMES, device, name) == name
    finally:
        for cached in (shared._kernel, shared._module):
            cached.cache_clear()
    assert made == [module.NAMES] * 2


def test_shared_memory_fits_a_block_and_the_source_agrees(host: shared.Kernels) -> None:
    assert shared.scratch(28) <= 48 * 1024
    assert f"THREADS = {shared.THREADS};" in shared.COMMON.read_text()
    assert f"ROWS = {module._ROWS};" in module.SOURCE.read_text()
    assert np.prod(depthwise._output(torch.empty(1, 1, 7, 9, 5), [2, 1, 2]).shape) == 4 * 9 * 3
