"""State dicts that load strictly: every key, shape and type fits, every value is finite, or nothing is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import nn

from custom_components.weights.files import WeightsError, read_tensors, write_tensors

__all__ = ["check_finite", "check_state", "load_state", "save_state"]


def save_state(network: nn.Module, path: str | Path) -> None:
    """Write a network's state dict, atomically; equal weights give equal bytes.

    Args:
        network: any module.
        path: ``.safetensors``, ``.pt`` or ``.pth``.

    Raises:
        WeightsError: a value is not finite, the suffix is another, or the folder cannot be written.
    """
    state = network.state_dict()
    check_finite(state, str(path))
    write_tensors(path, state)


def load_state(network: nn.Module, path: str | Path) -> nn.Module:
    """Load a plain state dict into a network, strictly; the network is unchanged if it does not fit.

    Args:
        network: stays on its device.
        path: ``.safetensors``, ``.pt`` or ``.pth``; no code in it is run.

    Returns:
        The network.

    Raises:
        WeightsError: the file is unreadable or unsafe, or does not fit; the message lists the keys.
    """
    state = read_tensors(path)
    check_state(network.state_dict(), state, str(path))
    network.load_state_dict(state, strict=True)
    return network


def check_state(expected: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor], source: str) -> None:
    """Compare names, shapes and types of two state dicts, and ask that all given values be finite.

    Args:
        expected: the network's own state dict (may lie on the meta device).
        given: what a file holds.
        source: the file's name for the message.

    Raises:
        WeightsError: with the missing, unexpected, mis-shaped, mistyped and non-finite keys.
    """
    common = expected.keys() & given.keys()
    shapes = [
        f"{k} is {_size(given[k])}, the network has {_size(expected[k])}"
        for k in expected
        if k in common and given[k].shape != expected[k].shape
    ]
    types = [
        f"{k} is {_type(given[k])}, the network has {_type(expected[k])}"
        for k in expected
        if k in common and given[k].dtype != expected[k].dtype
    ]
    faults = [
        _listed("missing", [k for k in expected if k not in given]),
        _listed("unexpected", [k for k in given if k not in expected]),
        _listed("wrong shape", shapes),
        _listed("wrong type", types),
    ]
    if any(faults):
        raise WeightsError(
            f"{source}: does not fit the network; {'; '.join(f for f in faults if f)}. "
            "Nothing was loaded; use the weights and the configuration of the same bundle"
        )
    check_finite(given, source)


def check_finite(state: Mapping[str, torch.Tensor], source: str) -> None:
    """Refuse NaN and infinite weights.

    Raises:
        WeightsError: naming the keys.
    """
    broken = [k for k, v in state.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if broken:
        raise WeightsError(f"{source}: {_listed('NaN or infinite values in', broken)}; the training that made them diverged")


def _listed(what: str, items: Iterable[str], limit: int = 8) -> str:
    """``what (count): first items``; empty for none."""
    items = list(items)
    if not items:
        return ""
    rest = f", and {len(items) - limit} more" if len(items) > limit else ""
    return f"{what} ({len(items)}): {', '.join(items[:limit])}{rest}"


def _size(tensor: torch.Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
