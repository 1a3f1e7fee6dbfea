"""Parameter groups of an optimizer: trunk and adapters with rates of their own."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(
    network: nn.Module, lr: float, trunk_factor: float = 1.0, adapter_factor: float = 1.0
) -> list[dict[str, Any]]:
    """What is to be trained of a `U2Net`, as groups for a torch optimizer; what is frozen is left out.

    A parameter without a gradient is not touched by torch's optimizers, their weight decay and momentum included. So the
    adapters of domains that are absent from a step stay as they are, provided that gradients are set to None between
    steps (``optim_set_to_none`` of MONAI's trainer).

    Args:
        network: a `U2Net`; the wrapper of a distributed one may be around it.
        lr: rate.
        trunk_factor: on the trunk's rate.
        adapter_factor: on the adapters' rate.

    Returns:
        The groups that have parameters: trunk (if not frozen), adapters.

    Raises:
        ValueError: nothing is to be trained.
    """
    trunk: list[nn.Parameter] = []
    adapters: list[nn.Parameter] = []
    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            (trunk if key.removeprefix("module.").startswith("trunk.") else adapters).append(parameter)
    groups = [{"params": trunk, "lr": lr * trunk_factor}, {"params": adapters, "lr": lr * adapter_factor}]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ValueError("every parameter of the network is frozen: there is nothing to train")
    return groups
