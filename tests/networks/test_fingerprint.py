"""A fingerprint changes with anything that changes a network's output, and with nothing else."""

import hashlib
import struct

import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_components.networks import fingerprint


def state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"a.weight": torch.randn(3, 2, generator=generator), "a.bias": torch.randn(3, generator=generator)}


def test_equals_the_written_definition() -> None:
    """Recomputed with struct and hashlib alone from the docstring's definition."""
    digest = hashlib.sha256()
    header = b"w\0float32\x002,1"
    digest.update(struct.pack("<Q", len(header)) + header + struct.pack("<Q", 8) + struct.pack("<2f", 1.5, -2.0))
    assert fingerprint({"w": torch.tensor([[1.5], [-2.0]])}) == digest.hexdigest()


def test_order_layout_and_gradient_do_not_count() -> None:
    one = state()
    other = {name: one[name].clone().t().contiguous().t().requires_grad_() for name in reversed(one)}
    assert fingerprint(one) == fingerprint(other)


@given(name=st.sampled_from(["a.weight", "a.bias"]), bit=st.integers(0, 31), index=st.integers(0, 2))
def test_every_bit_counts(name: str, bit: int, index: int) -> None:
    one, other = state(), state()
    flat = other[name].reshape(-1).view(torch.int32)
    flat[index] ^= torch.tensor(1, dtype=torch.int32) << bit
    assert fingerprint(one) != fingerprint(other)


def test_name_dtype_and_shape_count() -> None:
    reference = fingerprint({"w": torch.zeros(4)})
    for changed in ({"v": torch.zeros(4)}, {"w": torch.zeros(2, 2)}, {"w": torch.zeros(4, dtype=torch.int32)}, {}):
        assert fingerprint(changed) != reference


def test_scalars_empty_tensors_and_bfloat16() -> None:
    states = [{"w": torch.tensor(1.0)}, {"w": torch.empty(0)}, {"w": torch.ones(2, dtype=torch.bfloat16)}]
    assert len({fingerprint(s) for s in states}) == 3
