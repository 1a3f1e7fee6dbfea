"""The CUDA instance norm with LeakyReLU: run on the CPU, compiled by NVRTC, and on a GPU where there is one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from custom_components.kernels import cuda as shared
from custom_components.kernels import dispatch, instance_norm_act, instance_norm_act_reference
from custom_components.kernels import norm_cuda as module
from custom_components.networks import U2Net
from tests.kernels.cuda_on_host import HostModule, host_compiler
from tests.kernels.nvrtc import compile_cubin
from tests.kernels.test_depthwise_cuda import TOLERANCES, fake_gpu, operators, same

SHAPES = [
    (2, 3, 7, 9, 5),  # one chunk, one number at a time
    (1, 2, 2, 1, 1),
    (2, 3, 8, 8, 8),  # one chunk, wide reads
    (1, 2, 16, 16, 16),  # a chunk to the last voxel
    (2, 3, 17, 21, 23),  # three chunks, the last of one number short of wide reads
    (1, 2, 16, 20, 28),  # several chunks, wide reads
    (1, 1, 1, 1, 4097),  # a last chunk of one voxel
]

ROUNDING = 1e-6  # of terms of size 1, which cancel in the gradient of a volume of two voxels


def case(shape: tuple[int, ...], slope: float, dtype: torch.dtype, offset: float = 0.0) -> tuple[list[Tensor], Any]:
    """x, weight, bias and gradient; forward and gradients of the reference in float64, from numbers as they are stored."""
    torch.manual_seed(1)
    c = shape[1]
    inputs = [t.to(dtype) for t in (torch.randn(shape) + offset, torch.randn(c), torch.randn(c))]
    doubles = [t.double().requires_grad_() for t in inputs]
    out = instance_norm_act_reference(*doubles, 1e-5, slope)
    gradient = torch.randn_like(out).to(dtype)
    return [*inputs, gradient], [out, *torch.autograd.grad(out, doubles, gradient.double())]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> shared.Kernels:
    compiler = host_compiler()
    if compiler is None:
        pytest.skip("no C++ compiler (g++, c++ or clang++) to run the CUDA kernels on the CPU")
    folder, files = tmp_path_factory.mktemp("norm"), [shared.COMMON, module.SOURCE]
    kernels = (*module.NAMES, "norm_finish")
    return HostModule(files, kernels, folder, compiler, dynamic="sums_in_block", static=()).get_function


def host_results(host: shared.Kernels, inputs: list[Tensor], slope: float) -> list[Tensor]:
    x, w, b, gradient = inputs
    out, mean, rstd = module.launch_forward(host, x, w, b, 1e-5, slope)
    assert mean.dtype == rstd.dtype == torch.float32
    return [out, *module.launch_backward(host, gradient, x, w, b, mean, rstd, slope)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("shape", SHAPES)
def test_host_equal_to_torch_in_float64(host: shared.Kernels, shape: Any, slope: float, dtype: torch.dtype) -> None:
    inputs, expected = case(shape, slope, dtype)
    same(host_results(host, inputs, slope), expected, dtype, ROUNDING)


@pytest.mark.parametrize("shape", [(2, 3, 7, 9, 5), (2, 3, 17, 21, 23)])
def test_host_images_far_from_zero(host: shared.Kernels, shape: Any) -> None:
    """The mean in float32 is off by 3e-5 of the deviations; that of the sum of squares would lose all of the variance."""
    inputs, expected = case(shape, 1.0, torch.float32, offset=500.0)
    for a, e in zip(host_results(host, inputs, 1.0), expected, strict=True):
        assert (a - e).abs().max() <= 1e-4 * e.abs().max()
    inputs[0][:, :, 0, 0, 0] = 1e6  # an outlier where a shifted sum would take its shift
    expected = instance_norm_act_reference(*(t.double() for t in inputs[:3]), 1e-5, 1.0)
    found = module.launch_forward(host, *inputs[:3], 1e-5, 1.0)[0]
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("shape", [(2, 3, 8, 8, 8), (1, 2, 16, 20, 28)])
def test_host_constant_images(host: shared.Kernels, shape: Any) -> None:
    w, b = torch.ones(shape[1]), torch.arange(1.0, shape[1] + 1)
    x = torch.full(shape, 0.1)
    out, mean, rstd = module.launch_forward(host, x, w, b, 1e-5, 0.01)
    torch.testing.assert_close(out, b.view(1, -1, 1, 1, 1).expand(shape), atol=1e-4, rtol=0)
    gradients = module.launch_backward(host, torch.ones(shape), x, w, b, mean, rstd, 0.01)
    assert all(g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("shape", [(2, 3, 8, 8, 8), (1, 2, 16, 20, 28)])
def test_host_strided_memory_odd_addresses_and_mixed_types(host: shared.Kernels, shape: Any) -> None:
    (x, w, b, gradient), expected = case(shape, 0.01, torch.float16)
    strided = [t.transpose(2, 4).contiguous().transpose(2, 4) for t in (x, gradient)]
    same(host_results(host, [strided[0], w, b, strided[1]], 0.01), expected, torch.float16)
    moved = torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(shape).copy_(x)  # contiguous, but not where wide reads start
    assert module._kind(moved) == "Half, 1" and module._kind(x) == "Half, 8"
    found = host_results(host, [moved, w.float(), b.float(), gradient], 0.01)
    same(found[:2], expected[:2], torch.float16)
    same(found[2:], expected[2:], torch.float32)


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_nvrtc_compiles_every_instance(architecture: str) -> None:
    binary, instances = compile_cubin(shared.COMMON.read_text() + module.SOURCE.read_text(), module.NAMES, architecture)
    kernels = [*instances, "norm_finish"]
    assert len(set(kernels)) == 25
    assert all(f".text.{kernel}".encode() in binary for kernel in kernels)


def test_the_source_has_the_same_chunks() -> None:
    items = int(module.SOURCE.read_text().split("constexpr int ITEMS = ")[1].split(";")[0])
    assert items * shared.THREADS == module._CHUNK


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_dispatch_takes_the_kernels_where_cupy_is(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    with fake_gpu(monkeypatch):
        x, w, b = (torch.empty(s, dtype=dtype, device="cuda") for s in ((2, 3, 7, 9, 5), (3,), (3,)))
        assert operators(lambda: instance_norm_act(x, w, b)) == ["u2net.instance_norm_act.default"]
        out, mean, rstd = torch.ops.u2net.instance_norm_act(x, w, b, 1e-5, 0.01)
        assert out.dtype == dtype and mean.dtype == rstd.dtype == torch.float32
    with fake_gpu(monkeypatch, cupy=False):
        x, w, b = (torch.empty(s, dtype=dtype, device="cuda") for s in ((2, 3, 7, 9, 5), (3,), (3,)))
        assert operators(lambda: instance_norm_act(x, w, b)) == []


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("shape", SHAPES)
def test_gpu_equal_to_torch_in_float64(cuda: torch.device, shape: Any, slope: float, dtype: torch.dtype) -> None:
    (*inputs, gradient), expected = case(shape, slope, dtype)
    inputs = [t.to(cuda).requires_grad_() for t in inputs]
    assert dispatch.fast_cuda(inputs[0], inputs[1])
    out = instance_norm_act(*inputs, 1e-5, slope)
    same([out, *torch.autograd.grad(out, inputs, gradient.to(cuda))], expected, dtype, ROUNDING)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gpu_autocast_keeps_parameters_in_float32(cuda: torch.device, dtype: torch.dtype) -> None:
    (x, w, b, gradient), expected = case((2, 3, 17, 21, 23), 0.01, dtype)
    inputs = [t.to(cuda).requires_grad_() for t in (x, w.float(), b.float())]
    with torch.autocast("cuda", dtype):
        out = instance_norm_act(*inputs)
    found = torch.autograd.grad(out, inputs, gradient.to(cuda))
    same([out, found[0]], expected[:2], dtype)
    same(found[1:], expected[2:], torch.float32)


def test_gpu_compiled_by_torch(cuda: torch.device) -> None:
    inputs = [t.to(cuda).requires_grad_() for t in case((2, 3, 17, 21, 23), 0.01, torch.float32)[0][:3]]
    found = torch.autograd.grad(torch.compile(lambda *a: instance_norm_act(*a).square().sum(), fullgraph=True)(*inputs), inputs)
    expected = torch.autograd.grad(instance_norm_act(*inputs).square().sum(), inputs)
    for a, e in zip(found, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-4)


def test_gpu_on_two_streams_without_synchronisation(cuda: torch.device) -> None:
    inputs = [t.to(cuda) for t in case((2, 3, 17, 21, 23), 0.01, torch.float32)[0][:3]]
    expected = [instance_norm_act(inputs[0] * k, *inputs[1:]) for k in (2.0, 3.0)]  # compiles
    streams = [torch.cuda.Stream(cuda) for _ in range(2)]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream(cuda))
    found = []
    torch.cuda.set_sync_debug_mode("error")
    try:
        for stream, k in zip(streams, (2.0, 3.0), strict=True):
            with torch.cuda.stream(stream):
                torch.cuda._sleep(50_000_000)  # a kernel on another stream would read the product before it is written
                found.append(instance_norm_act(inputs[0] * k, *inputs[1:]))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize(cuda)
    assert all(torch.equal(a, e) for a, e in zip(found, expected, strict=True))


def network() -> U2Net:
    torch.manual_seed(0)
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    domain = {"in_channels": 1, "out_channels": 3, "strides": [[1, 2, 2], [2, 2, 2]], "kernel_sizes": kernels}
    return U2Net({"a": domain}, channels=(4, 8, 12))


def gradients(net: U2Net, x: Tensor) -> dict[str, Tensor]:
    """Of the mean square of the output, which is in it too."""
    net.zero_grad(set_to_none=True)
    out = net(x)
    assert isinstance(out, Tensor)
    out.float().square().mean().backward()
    return {"output": out.detach().float()} | {n: p.grad for n, p in net.named_parameters() if p.grad is not None}


def alike(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """Within the tolerance of the largest output, and of the largest gradient."""
    largest = max(float(e.abs().max()) for n, e in expected.items() if n != "output")
    assert found.keys() == expected.keys()
    for name, e in expected.items():
        extent = float(e.abs().max()) if name == "output" else largest
        assert (found[name].cpu() - e.cpu()).abs().max() <= tolerance * extent, name


def test_host_whole_network_equal_to_the_reference(
    tmp_path_factory: pytest.TempPathFactory, host: shared.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network on these kernels, wired as the operators wire them, with their strides and shapes."""
    from custom_components.kernels import depthwise_cuda
    from custom_components.networks import layers

    compiler = host_compiler()
    assert compiler is not None  # or `host` skips
    folder, files = tmp_path_factory.mktemp("network"), [shared.COMMON, depthwise_cuda.SOURCE]
    other = HostModule(files, depthwise_cuda.NAMES, folder, compiler, dynamic="sums_in_block", static=()).get_function

    class Depthwise(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: Any) -> Tensor:
            ctx.save_for_backward(x, weight)
            ctx.stride = stride
            return depthwise_cuda.launch_forward(other, x, weight, bias, stride)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
            return (*depthwise_cuda.launch_backward(other, gradient, *ctx.saved_tensors, ctx.stride, True), None)

    class Norm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, slope: float) -> Tensor:
            out, *statistics = module.launch_forward(host, x, weight, bias, eps, slope)
            ctx.save_for_backward(x, weight, bias, *statistics)
            ctx.slope = slope
            return out

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
            return (*module.launch_backward(host, gradient, *ctx.saved_tensors, ctx.slope), None, None)

    net, x = network().train(), torch.randn(2, 1, 8, 20, 28)
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    expected = gradients(net, x)
    monkeypatch.setattr(layers, "depthwise_conv3d", Depthwise.apply)
    monkeypatch.setattr(layers, "instance_norm_act", Norm.apply)
    alike(gradients(net, x), expected, 1e-4)


def test_gpu_whole_network_equal_to_the_reference(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and under autocast, and compiled."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    net, x = network().to(cuda).train(), torch.randn(2, 1, 8, 40, 56, device=cuda)
    found = gradients(net, x)
    alike(gradients(torch.compile(net), x), found, 1e-4)  # type: ignore[arg-type]
    with torch.autocast("cuda", torch.bfloat16):
        half = gradients(net, x)
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    alike(found, gradients(net, x), 1e-4)
    with torch.autocast("cuda", torch.bfloat16):
        alike(half, gradients(net, x), 0.1)  # 2^-8 per layer, and rounded in other places
