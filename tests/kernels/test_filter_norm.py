"""Filter, norm and activation in one step against torch's layers in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from custom_components.kernels import Norm, filter_norm_act
from custom_components.kernels.dispatch import fast_cpu

CASES = [
    # (N, channels in, Z, Y, X), channels out, kernel, stride, norm before
    ((2, 5, 3, 4, 5), 5, (3, 3, 3), (1, 1, 1), False),
    ((2, 5, 3, 4, 5), 5, (3, 3, 3), (1, 1, 1), True),
    ((2, 6, 9, 10, 11), 6, (3, 3, 3), (2, 2, 2), False),
    ((1, 4, 4, 8, 8), 4, (1, 3, 3), (1, 2, 2), True),
    ((2, 1, 6, 7, 8), 4, (3, 3, 3), (1, 1, 1), False),
    ((1, 2, 41, 40, 42), 2, (3, 3, 3), (1, 1, 1), True),  # a channel larger than what is held of several
    ((2, 3, 5, 6, 7), 3, (5, 3, 3), (2, 1, 1), True),
]


def operands(shape: tuple[int, ...], channels: int, kernel: tuple[int, ...], before: bool) -> list[Tensor]:
    torch.manual_seed(0)
    sizes = [shape, (channels, 1, *kernel), (channels,), (channels,), (channels,), *[(shape[1],)] * (2 * before)]
    return [torch.randn(size).requires_grad_() for size in sizes]


def ours(tensors: list[Tensor], stride: tuple[int, int, int]) -> Tensor:
    x, weight, bias, scale, shift, *before = tensors
    return filter_norm_act(x, weight, bias, Norm(scale, shift, 0.01), stride, Norm(*before, 0.1) if before else None)


def by_torch(tensors: list[Tensor], stride: tuple[int, int, int]) -> Tensor:
    x, weight, bias, scale, shift, *before = tensors
    if before:
        x = F.leaky_relu(F.instance_norm(x, weight=before[0], bias=before[1]), 0.1)
    y = F.conv3d(x, weight, bias, stride, [k // 2 for k in weight.shape[2:]], groups=x.shape[1])
    return F.leaky_relu(F.instance_norm(y, weight=scale, bias=shift), 0.01)


@pytest.mark.parametrize(("shape", "channels", "kernel", "stride", "before"), CASES)
def test_equals_torch_in_float64_forward_and_backward(shape, channels, kernel, stride, before):
    inputs = operands(shape, channels, kernel, before)
    assert fast_cpu(inputs[0], inputs[1])
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    out, expected = ours(inputs, stride), by_torch(doubles, stride)
    gradient = torch.randn_like(out)
    actual = [out, *torch.autograd.grad(out, inputs, gradient)]
    wanted = [expected, *torch.autograd.grad(expected, doubles, gradient.double())]
    for i, (a, w) in enumerate(zip(actual, wanted, strict=True)):
        assert a.shape == w.shape
        if i == 3:  # the filters' bias: the norm takes it away, and in float64 rounding is left of its gradient
            assert w.abs().max() < 1e-9 and not a.any()
        else:
            assert (a - w).abs().max() <= 1e-5 * w.abs().max()


def test_takes_non_contiguous_input_and_gradient():
    tensors = operands((2, 3, 6, 5, 4), 3, (3, 3, 3), True)
    turned = [tensors[0].transpose(2, 4), *tensors[1:]]
    gradient = torch.randn(2, 3, 6, 5, 4).transpose(2, 4)
    actual = torch.autograd.grad(ours(turned, (1, 1, 1)), tensors, gradient)
    expected = torch.autograd.grad(by_torch(turned, (1, 1, 1)), tensors, gradient)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-3, atol=1e-4)


def test_what_lies_far_from_zero_keeps_its_statistics():
    tensors = operands((1, 2, 12, 12, 12), 2, (3, 3, 3), False)
    with torch.no_grad():
        tensors[0] += 300.0
        out = ours(tensors, (1, 1, 1))
        expected = by_torch([t.double() for t in tensors], (1, 1, 1))
    assert (out - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_threads_give_the_same_bits():
    tensors = operands((2, 5, 9, 8, 7), 5, (3, 3, 3), True)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            out = ours(tensors, (1, 1, 1))
            results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, e) for result in results[1:] for a, e in zip(result, results[0], strict=True))


@pytest.mark.parametrize("before", [False, True])
def test_registered_operator_is_sound(before):
    x, weight, bias, scale, shift, *norm = operands((2, 3, 5, 4, 6), 3, (3, 3, 3), before)
    first = (*norm, 0.1) if before else (None, None, 1.0)
    torch.library.opcheck(
        torch.ops.u2net.filter_norm_act.default,
        (x, *first, weight, bias, scale, shift, 0.01, [2, 1, 2], 1e-5),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
