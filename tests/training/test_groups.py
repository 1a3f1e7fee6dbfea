"""Parameter groups: whose parameters, at which rate, and what an optimizer step moves."""

from __future__ import annotations

import pytest
import torch

from custom_components.networks import U2Net
from custom_components.training import parameter_groups

SHAPE = {"in_channels": 1, "out_channels": 2, "strides": [[2, 2, 2]], "kernel_sizes": [[3, 3, 3]] * 2}


@pytest.fixture
def network() -> U2Net:
    torch.manual_seed(0)
    return U2Net({"one": SHAPE, "two": SHAPE}, (4, 8))


def test_trunk_and_adapters_have_rates_of_their_own(network: U2Net) -> None:
    trunk, adapters = parameter_groups(network, 0.01, trunk_factor=0.1, adapter_factor=3.0)
    assert (trunk["lr"], adapters["lr"]) == (pytest.approx(0.001), pytest.approx(0.03))
    owners = {id(p): key.split(".")[0] for key, p in network.named_parameters()}
    assert {owners[id(p)] for p in trunk["params"]} == {"trunk"}
    assert {owners[id(p)] for p in adapters["params"]} == {"domains"}
    assert len(trunk["params"]) + len(adapters["params"]) == len(owners)


def test_the_wrapper_of_a_distributed_network_changes_nothing(network: U2Net) -> None:
    wrapped = torch.nn.ModuleDict({"module": network})
    plain, through = parameter_groups(network, 0.1, 0.5), parameter_groups(wrapped, 0.1, 0.5)
    assert [[id(p) for p in g["params"]] for g in plain] == [[id(p) for p in g["params"]] for g in through]


def test_what_is_frozen_stays_out(network: U2Net) -> None:
    (adapters,) = parameter_groups(network.freeze_trunk(), 0.01, trunk_factor=9.0)
    assert adapters["lr"] == 0.01
    assert not any(p is q for p in adapters["params"] for q in network.trunk.parameters())
    network.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(network, 0.01)
