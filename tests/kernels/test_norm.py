"""Fused instance norm and LeakyReLU against torch's own in float64."""

from __future__ import annotations

import pytest
import torch

from custom_components.kernels import instance_norm_act, instance_norm_act_reference


@pytest.mark.parametrize("slope", [1.0, 0.01])
@pytest.mark.parametrize("offset", [0.0, 500.0])
@pytest.mark.parametrize("shape", [(2, 3, 7, 9, 5), (1, 2, 2, 1, 1), (3, 4, 16, 20, 12)])
def test_equals_torch_in_float64_forward_and_backward(shape, offset, slope):
    torch.manual_seed(1)
    c = shape[1]
    inputs = [t.requires_grad_() for t in (torch.randn(shape) + offset, torch.randn(c), torch.randn(c))]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    out = instance_norm_act(*inputs, 1e-5, slope)
    expected = instance_norm_act_reference(*doubles, 1e-5, slope)
    gradient = torch.randn_like(out)
    actual = [out, *torch.autograd.grad(out, inputs, gradient)]
    wanted = [expected, *torch.autograd.grad(expected, doubles, gradient.double())]
    tolerance = 1e-5 if offset == 0 else 2e-3  # float32 holds 500 + noise to 3e-5 of the noise already
    for a, w in zip(actual, wanted, strict=True):
        assert (a - w).abs().max() <= tolerance * w.abs().max() + 1e-6


def test_sums_over_a_whole_channel_lose_nothing():
    """A patch has a hundred thousand voxels: sums in float32 alone were off by a hundredth in the logits."""
    torch.manual_seed(2)
    x, gradient = torch.randn(1, 2, 40, 56, 40) + 3, torch.randn(1, 2, 40, 56, 40)
    w, b = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.5])
    results = []
    for dtype in (torch.float32, torch.float64):
        inputs = [t.to(dtype).requires_grad_() for t in (x, w, b)]
        out = instance_norm_act(*inputs)
        results.append([out, *torch.autograd.grad(out, inputs, gradient.to(dtype))])
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).abs().max() <= 2e-6 * expected.abs().max()


def test_registered_operator_is_sound():
    torch.manual_seed(0)
    x, w, b = torch.randn(2, 3, 4, 5, 6, requires_grad=True), torch.randn(3), torch.randn(3)
    torch.library.opcheck(
        torch.ops.u2net.instance_norm_act.default,
        (x, w.requires_grad_(), b.requires_grad_(), 1e-5, 0.01),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )
