"""Import of checkpoints of the published 3D U²-Net code (``u2net_torch``), whose key names differ from ours.

The set-up (independent, shared, universal with separable, series or parallel adapters), widths, levels, channels and
classes are read from keys and shapes. What a checkpoint does not tell are the domains' names, which it numbers, and on
which axes a step between levels has stride 2; both are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from custom_components.weights.files import WeightsError, read_pickled, read_safetensors
from custom_components.weights.states import check_state

if TYPE_CHECKING:
    from custom_components.networks import U2Net

__all__ = ["ImportedNetwork", "convert_original", "import_original"]


@dataclass(frozen=True)
class ImportedNetwork:
    """An original network in this project's terms.

    Attributes:
        config: `U2Net`'s arguments, JSON values.
        state_dict: its tensors under our keys.
    """

    config: dict[str, Any]
    state_dict: dict[str, torch.Tensor]

    def build(self) -> U2Net:
        """The network with these weights, in evaluation mode."""
        from custom_components.networks import U2Net  # networks takes its fingerprint from this package

        network = U2Net(**self.config)
        network.load_state_dict(self.state_dict, strict=True)
        return network.eval()


def import_original(
    path: str | Path, domains: Sequence[str] | None = None, pools: Sequence[int] | None = None
) -> ImportedNetwork:
    """Read an original checkpoint without running code in it.

    Args:
        path: ``.pt``, ``.pth`` or ``.safetensors``: a state dict, or a dict with ``model_state_dict``.
        domains: names for tasks 0, 1, …; by default ``domain_0``, ….
        pools: how often each axis (z, y, x) is halved; by default every step halves every axis.

    Raises:
        WeightsError: unreadable, unsafe or no original checkpoint; or names or pools do not fit it.
    """
    path = Path(path)
    values = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_pickled(path)
    if isinstance(values, Mapping) and isinstance(values.get("model_state_dict"), Mapping):
        values = values["model_state_dict"]
    if not isinstance(values, Mapping) or not all(isinstance(v, torch.Tensor) for v in values.values()):
        raise WeightsError(f"{path}: holds neither a state dict nor one under 'model_state_dict'")
    return convert_original(values, domains, pools, source=str(path))


def convert_original(
    state: Mapping[str, torch.Tensor],
    domains: Sequence[str] | None = None,
    pools: Sequence[int] | None = None,
    source: str = "original state dict",
) -> ImportedNetwork:
    """`import_original` for a state dict in memory; ``source`` is its name in error messages."""
    # Networks saved from under DataParallel have every key prefixed.
    given, state = state, {key.removeprefix("module."): value for key, value in state.items()}
    unknown = [key for key in state if not any(pattern.fullmatch(key) for pattern in _PATTERNS)]
    if unknown or not state:
        raise WeightsError(f"{source}: is no original 3D U²-Net checkpoint; key {unknown[0] if unknown else '(none)'} is unknown")
    layout = _Layout.read(state, source)
    names = _names(domains, layout.tasks, source)
    config = _config(state, layout, names, _strides(pools, layout.levels, source))
    renamed = {_rename(key, layout, names): value for key, value in state.items()}
    if len(renamed) != len(given):
        raise WeightsError(f"{source}: two of its keys name the same parameter")
    _check(config, renamed, source)
    return ImportedNetwork(config, renamed)


@dataclass(frozen=True)
class _Layout:
    """What keys and shapes tell."""

    adapter: str
    tasks: int
    levels: int

    @classmethod
    def read(cls, state: Mapping[str, torch.Tensor], source: str) -> _Layout:
        tasks = _count(state, r"in_tr_list\.(\d+)\..*")
        levels = _count(state, r"down_blocks\.(\d+)\..*")
        if not tasks or levels < 2 or any(_weight(t) not in state for t in range(tasks)):
            raise WeightsError(f"{source}: is no original 3D U²-Net checkpoint; its input layers or encoder are missing")
        unit = "down_blocks.0.op1."
        if f"{unit}pwise.conv1.weight" in state:
            adapter = "separable"
        elif f"{unit}adapOps.0.op1.1.weight" in state:
            adapter = "series"
        elif f"{unit}adapOps.0.op1.weight" in state:
            adapter = "parallel"
        else:
            adapter = "none"
        return cls(adapter, tasks, levels)

    def head_level(self, index: int) -> int:
        """Deep-supervision maps are numbered from the deeper one; they sit at levels 2 and 1 above the deepest."""
        return [level for level in (2, 1) if level < self.levels - 1][index]


# Stage of the original → room of ours; {i} is the level, {t} the task.
_UNIT = r"(?P<unit>adapOps\.(?P<at>\d+)\.(?:conv1|op1(?:\.[01])?)|pwise\.conv1|conv|op\.(?P<nt>\d+))"
_END = r"\.(?P<end>weight|bias)"
_PATTERNS = [
    re.compile(r"in_tr_list\.(?P<t>\d+)\.(?P<stem>op1\.0|op1\.1\.0)" + _END),
    re.compile(r"(?P<stage>down_blocks|up_blocks)\.(?P<i>\d+)\.(?P<op>op[12])\." + _UNIT + _END),
    re.compile(r"(?P<stage>up_samps)\.(?P<i>\d+)\.op\." + _UNIT + _END),
    re.compile(r"(?P<stage>down_samps)\.(?P<i>\d+)\.op1\.(?P<unit>conv|op\.(?P<nt>\d+))" + _END),
    re.compile(r"dSupers\.(?P<n>[01])\.(?P<t>\d+)\.(?P<head>op1\.0|op1\.1\.0)" + _END),
    re.compile(r"out_tr_list\.(?P<t>\d+)\.(?P<out>conv1)" + _END),
]
_STAGES = {"down_blocks": "encoder", "up_blocks": "decoder", "up_samps": "up", "down_samps": "down"}
_PLACES = {"op1": ".first", "op2": ".second", None: ""}
_ADAPTERS = {
    "separable": {"conv1": "depthwise", "op1.0": "norm_in"},
    "series": {"op1.0": "adapter_norm", "op1.1": "adapter"},
    "parallel": {"op1": "adapter"},
    "none": {},
}


def _rename(key: str, layout: _Layout, names: Sequence[str]) -> str:
    """One original key in our words. Keys that fit no room keep their name, and so fail the strict check."""
    match = next(m for m in (pattern.fullmatch(key) for pattern in _PATTERNS) if m)
    part: dict[str, str | None] = {"t": None, **match.groupdict()}
    end = part["end"]
    task = next((part[g] for g in ("t", "at", "nt") if part.get(g) is not None), None)
    if task is not None and int(task) >= len(names):
        return key
    owner = "trunk" if task is None else f"domains.{names[int(task)]}"
    if part.get("stem"):
        return f"{owner}.stem.{'conv' if part['stem'] == 'op1.0' else 'norm'}.{end}"
    if part.get("out"):
        return f"{owner}.output.{end}"
    if part.get("head"):
        try:
            level = layout.head_level(int(str(part["n"])))
        except IndexError:
            return key
        return f"{owner}.heads.{level}.{'conv' if part['head'] == 'op1.0' else 'norm'}.{end}"
    room = f"{owner}.{_STAGES[str(part['stage'])]}.{part['i']}{_PLACES[part.get('op')]}"
    unit = str(part["unit"])
    if unit in ("conv", "pwise.conv1"):
        return f"{room}.{end}"
    if part["nt"] is not None:
        return f"{room}.norm.{end}"
    inner = _ADAPTERS[layout.adapter].get(unit.split(".", 2)[2])
    return key if inner is None else f"{room}.{inner}.{end}"


def _config(state: Mapping[str, torch.Tensor], layout: _Layout, names: Sequence[str], strides: list[list[int]]) -> dict[str, Any]:
    encoder = "pwise.conv1" if layout.adapter == "separable" else "conv"
    missing = torch.empty(0)
    channels = [state.get(f"down_blocks.{i}.op1.{encoder}.weight", missing).shape[0] for i in range(layout.levels)]
    domains = {
        name: {
            "in_channels": state[_weight(t)].shape[1],
            "out_channels": state.get(f"out_tr_list.{t}.conv1.weight", missing).shape[0],
            "strides": strides,
            "kernel_sizes": [[3, 3, 3]] * layout.levels,
        }
        for t, name in enumerate(names)
    }
    return {
        "domains": domains,
        "channels": channels,
        "adapter": layout.adapter,
        "downsampling": "dense",
        "deep_supervision": "sum",
    }


def _check(config: dict[str, Any], state: Mapping[str, torch.Tensor], source: str) -> None:
    from custom_components.networks import U2Net

    try:
        with torch.device("meta"):
            expected = U2Net(**config).state_dict()
    except ValueError as error:
        raise WeightsError(f"{source}: {error}") from None
    check_state(expected, state, source)


def _names(domains: Sequence[str] | None, tasks: int, source: str) -> list[str]:
    names = [f"domain_{t}" for t in range(tasks)] if domains is None else list(domains)
    if len(names) != tasks or len(set(names)) != tasks:
        raise WeightsError(f"{source}: has {tasks} tasks; give as many different domain names, got {', '.join(names) or 'none'}")
    return names


def _strides(pools: Sequence[int] | None, levels: int, source: str) -> list[list[int]]:
    """Step i has stride 2 on an axis where i is below its number of poolings."""
    pools = [levels - 1] * 3 if pools is None else list(pools)
    if len(pools) != 3 or max(pools) != levels - 1 or min(pools) < 0:
        raise WeightsError(
            f"{source}: has {levels} levels; pools are three numbers (z, y, x), the largest {levels - 1}, got {pools}"
        )
    return [[2 if i < n else 1 for n in pools] for i in range(levels - 1)]


def _count(state: Mapping[str, torch.Tensor], pattern: str) -> int:
    found = [int(m.group(1)) for m in (re.fullmatch(pattern, key) for key in state) if m]
    return max(found, default=-1) + 1


def _weight(task: int) -> str:
    return f"in_tr_list.{task}.op1.0.weight"
