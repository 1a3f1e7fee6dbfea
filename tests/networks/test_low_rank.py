"""A domain's own change of the trunk's pointwise filters: what it computes, whose it is, and how it travels in files."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from custom_components.networks import U2Net, fingerprint
from custom_components.networks.layers import LowRank
from custom_components.networks.units import SeparableUnit
from custom_components.weights import load_network, network_on_trunk, save_bundle_weights
from custom_components.weights.bundle_changes import export_adapter, import_adapter, remove_adapter
from custom_components.weights.bundle_files import describe_header
from tests.weights.bundles import PLAN, bundle_of, domain, randomised

HEART, LIVER, KNEE = domain("heart_mri"), domain("liver_ct", 1, 3), domain("knee_mri", 1, 3)
RANK = 2
X = torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 1, 4, 8, 8).sin()


def network(rank: int = RANK, drawn: bool = True) -> U2Net:
    torch.manual_seed(0)
    net = U2Net({"heart_mri": HEART.network, "knee_mri": {**KNEE.network, "low_rank": rank}}, **PLAN)
    return (randomised(net) if drawn else net).eval()


def plain(net: U2Net, merge: bool) -> U2Net:
    """The knee without a change, on a trunk into whose filters the change has been added, or not."""
    alone = U2Net({"knee_mri": KNEE.network}, **PLAN).eval()
    alone.load_state_dict({k: v for k, v in net.state_dict().items() if k in alone.state_dict()})
    if merge:
        ours = [m for m in net.select("knee_mri").modules() if isinstance(m, SeparableUnit)]
        theirs = [m for m in alone.select().modules() if isinstance(m, SeparableUnit)]
        assert len(ours) == len(theirs) > 5
        with torch.no_grad():
            for own, other in zip(ours, theirs, strict=True):
                other.pointwise.weight += torch.einsum("or,ri->oi", own.low_rank.up, own.low_rank.down)[..., None, None, None]
    return alone


def test_it_is_nothing_before_it_is_trained() -> None:
    net = network(drawn=False)
    assert torch.equal(net(X, "knee_mri"), plain(net, merge=False)(X))


def test_it_adds_to_the_trunks_filters_for_its_domain_alone() -> None:
    net = network()
    torch.testing.assert_close(net(X, "knee_mri"), plain(net, merge=True)(X), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(net(X, "knee_mri"), plain(net, merge=False)(X), rtol=0.1, atol=0.1)
    before, trunk = net(X, "heart_mri"), net.trunk_fingerprint()
    with torch.no_grad():
        for part in (m for m in net.modules() if isinstance(m, LowRank)):
            part.up.zero_()
    assert torch.equal(net(X, "heart_mri"), before)
    assert net.trunk_fingerprint() == trunk
    assert torch.equal(net(X, "knee_mri"), plain(net, merge=False)(X))


def test_its_gradients_are_those_of_the_filters_it_makes() -> None:
    net = network().double()
    merged = plain(net, merge=True).double()
    net.freeze_trunk()
    x = X.double()
    net(x, "knee_mri").pow(2).mean().backward()
    merged(x).pow(2).mean().backward()
    ours = [m for m in net.select("knee_mri").modules() if isinstance(m, SeparableUnit)]
    theirs = [m for m in merged.select().modules() if isinstance(m, SeparableUnit)]
    for own, other in zip(ours, theirs, strict=True):
        whole = other.pointwise.weight.grad[:, :, 0, 0, 0]
        torch.testing.assert_close(own.low_rank.up.grad, whole @ own.low_rank.down.T, rtol=1e-5, atol=1e-9)
        torch.testing.assert_close(own.low_rank.down.grad, own.low_rank.up.T @ whole, rtol=1e-5, atol=1e-9)
        assert own.pointwise.weight.grad is None
    assert all(p.grad is None for p in net.domains["heart_mri"].parameters())


def test_torchscript_computes_the_same() -> None:
    net = network()
    scripted = torch.jit.script(net.select("knee_mri"))
    torch.testing.assert_close(scripted(X), net(X, "knee_mri"), rtol=1e-4, atol=1e-4)
    unchanged = torch.jit.script(net.select("heart_mri"))
    torch.testing.assert_close(unchanged(X), net(X, "heart_mri"), rtol=1e-4, atol=1e-4)


def test_the_configuration_names_it_only_where_it_is(tmp_path: Path) -> None:
    net = network()
    assert net.config["domains"]["knee_mri"]["low_rank"] == RANK
    assert "low_rank" not in net.config["domains"]["heart_mri"]
    save_bundle_weights(net, tmp_path)
    assert describe_header(tmp_path / "knee_mri.safetensors").to_json()["shape"]["low_rank"] == RANK
    assert "low_rank" not in describe_header(tmp_path / "heart_mri.safetensors").to_json()["shape"]
    read = load_network(tmp_path)
    assert fingerprint(read.state_dict()) == fingerprint(net.state_dict())
    assert torch.equal(read(X, "knee_mri"), net(X, "knee_mri"))
    assert copy.deepcopy(read).config == net.config


@pytest.mark.parametrize(
    ("rank", "plan", "message"),
    [
        (-1, PLAN, "low_rank: a whole number, 0 for none, is needed, got -1"),
        (1.5, PLAN, "low_rank: a whole number"),
        (1, {**PLAN, "adapter": "series", "downsampling": "dense"}, "low_rank: 'series' adapters"),
    ],
)
def test_what_cannot_be_is_refused(rank: object, plan: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        U2Net({"knee_mri": {**KNEE.network, "low_rank": rank}}, **plan)


def test_a_new_adapter_on_a_frozen_trunk_has_it_and_keeps_it(tmp_path: Path) -> None:
    bundle = bundle_of(tmp_path / "bundle", HEART, LIVER)
    before = {path.name: path.read_bytes() for path in (bundle / "models").glob("*.safetensors")}
    trunk = bundle / "models" / "trunk.safetensors"
    net = network_on_trunk(trunk, KNEE, warm_start="mean", low_rank=RANK)
    changes = [m for m in net.modules() if isinstance(m, LowRank)]
    assert changes and all(p.requires_grad for m in changes for p in m.parameters())
    assert not any(p.requires_grad for p in net.trunk.parameters())
    assert not any(m.up.any() for m in changes)
    with torch.no_grad():
        for part in changes:
            torch.nn.init.normal_(part.up)
    other = tmp_path / "trained"
    save_bundle_weights(net, other / "models", {KNEE.name: {"description": KNEE, "licence": "CC0"}})
    again = network_on_trunk(trunk, KNEE, adapter=other / "models" / "knee_mri.safetensors", low_rank=7)
    assert fingerprint(again.state_dict()) == fingerprint(net.state_dict())
    # Into the bundle and out of it again; the others stay as they are.
    import_adapter(export_adapter(other, KNEE.name, tmp_path / "shared"), bundle)
    assert torch.equal(load_network(bundle / "models").eval()(X, "knee_mri"), net.eval()(X, "knee_mri"))
    remove_adapter(bundle, KNEE.name)
    assert {path.name: path.read_bytes() for path in (bundle / "models").glob("*.safetensors")} == before


def test_another_domain_starts_from_it_alone_but_not_from_a_mean_of_products(tmp_path: Path) -> None:
    save_bundle_weights(network(), tmp_path)
    trunk = tmp_path / "trunk.safetensors"
    one = network_on_trunk(trunk, domain("foot_mri", 1, 3), warm_start=tmp_path / "knee_mri.safetensors", low_rank=RANK)
    source = load_network(tmp_path).adapter_state("knee_mri")
    copied = {key.replace("foot_mri", "knee_mri"): value for key, value in one.adapter_state().items() if ".low_rank." in key}
    assert copied and all(torch.equal(value, source[key]) for key, value in copied.items())
    both = network_on_trunk(trunk, domain("foot_mri", 1, 3), warm_start="mean", low_rank=RANK)
    assert not any(m.up.any() for m in both.modules() if isinstance(m, LowRank))
