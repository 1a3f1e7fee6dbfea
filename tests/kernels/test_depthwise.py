"""The fast depthwise convolution against torch's own in float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from custom_components.kernels import depthwise_conv3d, depthwise_conv3d_reference
from custom_components.kernels.dispatch import fast_cpu

CASES = [
    # (N, C, Z, Y, X), kernel, stride
    ((2, 3, 7, 9, 5), (3, 3, 3), (1, 1, 1)),
    ((2, 3, 7, 9, 5), (3, 3, 3), (2, 2, 2)),
    ((1, 4, 6, 8, 10), (1, 3, 3), (1, 2, 2)),
    ((1, 2, 1, 5, 3), (3, 3, 3), (1, 2, 1)),
    ((3, 2, 6, 5, 7), (5, 1, 3), (2, 1, 1)),
    ((1, 2, 1, 1, 1), (3, 3, 3), (1, 1, 1)),
    ((2, 2, 4, 33, 40), (3, 3, 3), (1, 1, 2)),
    # Stride 1: rows of several blocks and of a part of one, one plane to many, rows that do not fill a group.
    ((1, 2, 2, 6, 17), (3, 3, 3), (1, 1, 1)),
    ((2, 2, 9, 13, 24), (3, 3, 3), (1, 1, 1)),
    ((2, 3, 5, 10, 19), (1, 3, 3), (1, 1, 1)),
    ((1, 2, 1, 4, 8), (1, 3, 3), (1, 1, 1)),
]


def operands(shape: tuple[int, ...], kernel: tuple[int, ...]) -> list[Tensor]:
    torch.manual_seed(0)
    c = shape[1]
    return [t.requires_grad_() for t in (torch.randn(shape), torch.randn(c, 1, *kernel), torch.randn(c))]


@pytest.mark.parametrize(("shape", "kernel", "stride"), CASES)
def test_equals_torch_in_float64_forward_and_backward(shape, kernel, stride):
    inputs = operands(shape, kernel)
    assert fast_cpu(inputs[0], inputs[1])
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    out = depthwise_conv3d(*inputs, stride)
    expected = depthwise_conv3d_reference(*doubles, stride)
    gradient = torch.randn_like(out)
    actual = [out, *torch.autograd.grad(out, inputs, gradient)]
    wanted = [expected, *torch.autograd.grad(expected, doubles, gradient.double())]
    for a, w in zip(actual, wanted, strict=True):
        assert a.shape == w.shape
        assert (a - w).abs().max() <= 1e-5 * w.abs().max()


def test_takes_non_contiguous_input_and_gradient():
    x, w, b = operands((2, 3, 6, 5, 4), (3, 3, 3))
    turned = x.transpose(2, 4)
    out = depthwise_conv3d(turned, w, b).transpose(2, 3)
    expected = depthwise_conv3d_reference(turned, w, b).transpose(2, 3)
    gradient = torch.randn(out.shape[::-1]).permute(4, 3, 2, 1, 0)
    for a, e in zip(
        torch.autograd.grad(out, [x, w, b], gradient), torch.autograd.grad(expected, [x, w, b], gradient), strict=True
    ):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-4)


def test_an_input_without_gradient_gets_none_and_the_filter_still_does():
    x, w, b = operands((1, 2, 4, 4, 4), (3, 3, 3))
    x = x.detach()
    depthwise_conv3d(x, w, b).sum().backward()
    assert x.grad is None
    assert w.grad is not None and torch.isfinite(w.grad).all()


def test_registered_operator_is_sound():
    x, w, b = operands((2, 3, 5, 4, 6), (3, 3, 3))
    torch.library.opcheck(
        torch.ops.u2net.depthwise_conv3d.default,
        (x, w, b, [2, 1, 2]),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_threads_give_the_same_bits():
    x, w, b = operands((2, 6, 9, 8, 7), (3, 3, 3))
    alone = depthwise_conv3d(x, w, b)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.equal(depthwise_conv3d(x, w, b), alone)
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda _: depthwise_conv3d(x, w, b), range(16)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(r, alone) for r in results)


def test_the_environment_forces_the_reference(monkeypatch):
    x, w, _ = operands((1, 2, 4, 4, 4), (3, 3, 3))
    monkeypatch.setenv("U2NET_KERNELS", "reference")
    assert not fast_cpu(x, w)
