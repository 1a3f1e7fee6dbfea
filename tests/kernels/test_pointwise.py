"""The fast 1×1×1 convolution against torch's own in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from custom_components.kernels import pointwise_conv3d, pointwise_conv3d_reference
from custom_components.kernels.dispatch import fast_cpu

CASES = [
    # (N, K, Z, Y, X), M: channels that fill groups of four and three or do not, voxels that fill columns and stretches or do not
    ((2, 3, 4, 5, 6), 4),
    ((1, 24, 4, 6, 8), 24),
    ((3, 7, 5, 5, 9), 3),
    ((1, 1, 1, 1, 1), 1),
    ((1, 5, 23, 24, 25), 9),
    ((2, 4, 16, 24, 24), 8),
]


def operands(shape: tuple[int, ...], outputs: int) -> list[Tensor]:
    torch.manual_seed(0)
    return [t.requires_grad_() for t in (torch.randn(shape), torch.randn(outputs, shape[1], 1, 1, 1), torch.randn(outputs))]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(("shape", "outputs"), CASES)
def test_equals_torch_in_float64_forward_and_backward(shape, outputs, threads):
    inputs = operands(shape, outputs)
    assert fast_cpu(inputs[0], inputs[1])
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        out = pointwise_conv3d(*inputs)
        expected = pointwise_conv3d_reference(*doubles)
        gradient = torch.randn_like(out)
        actual = [out, *torch.autograd.grad(out, inputs, gradient)]
    finally:
        torch.set_num_threads(before)
    wanted = [expected, *torch.autograd.grad(expected, doubles, gradient.double())]
    for a, w in zip(actual, wanted, strict=True):
        assert a.shape == w.shape
        assert (a - w).abs().max() <= 2e-6 * w.abs().max()


def test_takes_non_contiguous_input_and_gradient():
    x, w, b = operands((2, 3, 6, 5, 4), 5)
    turned = x.transpose(2, 4)
    gradient = torch.randn(2, 5, 6, 5, 4).transpose(2, 4)
    actual = torch.autograd.grad(pointwise_conv3d(turned, w, b), [x, w, b], gradient)
    expected = torch.autograd.grad(pointwise_conv3d_reference(turned, w, b), [x, w, b], gradient)
    for a, e in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_gradients_of_many_voxels_lose_nothing():
    """Products of a whole volume are summed in float64 across parts of it."""
    torch.manual_seed(1)
    x, gradient = torch.randn(1, 2, 40, 56, 40) + 3, torch.randn(1, 3, 40, 56, 40) + 1
    w, b = torch.randn(3, 2, 1, 1, 1), torch.randn(3)
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in (x, w, b)]
        results.append(torch.autograd.grad(pointwise_conv3d(*inputs), inputs, gradient.to(dtype)))
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_threads_give_the_same_bits():
    x, w, b = operands((1, 6, 12, 20, 20), 5)
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            out = pointwise_conv3d(x, w, b)
            results.append([out, *torch.autograd.grad(out.square().sum(), [x, w, b])])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, e) for result in results[1:] for a, e in zip(result, results[0], strict=True))


def test_registered_operator_is_sound():
    torch.library.opcheck(
        torch.ops.u2net.pointwise_conv3d.default,
        tuple(operands((2, 3, 5, 4, 6), 7)),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_frozen_filters_cost_no_gradient_and_change_no_other():
    x, w, b = operands((2, 6, 5, 6, 7), 5)
    gradient = torch.randn(2, 5, 5, 6, 7)
    (expected,) = torch.autograd.grad(pointwise_conv3d(x, w, b), [x], gradient)
    out = pointwise_conv3d(x, w.detach(), b.detach())
    (frozen,) = torch.autograd.grad(out, [x], gradient)
    assert torch.equal(frozen, expected)
    operands_of_backward = (gradient, x.detach(), w.detach(), True, False)
    grad_x, grad_w, grad_b = torch.ops.u2net.pointwise_conv3d_backward(*operands_of_backward)
    assert torch.equal(grad_x, expected)
    assert grad_w.numel() == grad_b.numel() == 0
    torch.library.opcheck(
        torch.ops.u2net.pointwise_conv3d_backward.default, operands_of_backward, test_utils=("test_schema", "test_faketensor")
    )
    # A bias alone that is trained has its gradient.
    (only_bias,) = torch.autograd.grad(pointwise_conv3d(x.detach(), w.detach(), b), [b], gradient)
    torch.testing.assert_close(only_bias, gradient.sum((0, 2, 3, 4)), rtol=1e-5, atol=1e-5)
