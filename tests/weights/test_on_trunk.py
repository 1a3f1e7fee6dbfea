"""A new domain on a trunk that exists: what is loaded, what starts from others, and what is refused."""

import logging
import shutil
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from torch.nn import functional

from custom_components.networks import U2Net, fingerprint
from custom_components.weights import WeightsError, load_network, network_on_trunk, save_bundle_weights
from custom_components.weights.on_trunk import fitted
from tests.weights.bundles import PLAN, domain, randomised

HEART, LIVER, KNEE = domain("heart_mri"), domain("liver_ct", 1, 2), domain("knee_mri", 2, 3)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_bundle_weights(randomised(U2Net({d.name: d.network for d in (HEART, LIVER, KNEE)}, **PLAN)), tmp_path)
    return tmp_path


def own(network: U2Net, name: str) -> dict[str, torch.Tensor]:
    return {key.removeprefix(f"domains.{name}."): value for key, value in network.adapter_state(name).items()}


def test_an_adapter_of_the_folder_gives_its_outputs(models: Path) -> None:
    x = torch.randn(1, 2, 4, 8, 8)
    network = network_on_trunk(models / "trunk.safetensors", KNEE, models / "knee_mri.safetensors")
    with torch.no_grad():
        assert torch.equal(network.eval()(x), load_network(models)(x, "knee_mri"))
    assert not any(p.requires_grad for p in network.trunk.parameters())
    assert all(p.requires_grad for p in network.domains.parameters())


def test_a_new_adapter_is_drawn_as_the_network_draws_it(models: Path) -> None:
    shoulder = domain("shoulder_mri", strides=[[2, 2, 2]], kernel_sizes=[[3, 3, 3]] * 2)
    torch.manual_seed(1)
    network = network_on_trunk(models / "trunk.safetensors", shoulder, freeze=False)
    torch.manual_seed(1)
    drawn = U2Net({"shoulder_mri": shoulder.network}, **PLAN)
    assert network.trunk_fingerprint() == load_network(models).trunk_fingerprint() != drawn.trunk_fingerprint()
    assert fingerprint(network.adapter_state()) == fingerprint(drawn.adapter_state())
    assert all(p.requires_grad for p in network.parameters())


def test_a_bundle_names_it_as_its_network(models: Path) -> None:
    config = ConfigParser(
        {
            "network_def": {
                "_target_": "custom_components.weights.network_on_trunk",
                "trunk": str(models / "trunk.safetensors"),
                "domain": {"_target_": "custom_components.domain.Domain.from_dict", "values": KNEE.model_dump(mode="json")},
                "adapter": str(models / "knee_mri.safetensors"),
            }
        }
    )
    network = config.get_parsed_content("network_def")
    assert fingerprint(network.state_dict()) == fingerprint(load_network(models, KNEE).state_dict())


def test_warm_start_copies_all_of_a_domain_of_equal_shape(models: Path) -> None:
    twin = domain("twin_mri")
    network = network_on_trunk(models / "trunk.safetensors", twin, warm_start=models / "heart_mri.safetensors")
    assert fingerprint(own(network, "twin_mri")) == fingerprint(own(load_network(models), "heart_mri"))


def test_warm_start_between_domains_of_other_channels_classes_and_filters(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = domain("other_mri", 3, 4, kernel_sizes=[[3, 3, 3], [1, 3, 3], [3, 3, 3]])
    heart = own(load_network(models), "heart_mri")
    torch.manual_seed(1)
    drawn = own(U2Net({"other_mri": other.network}, **PLAN), "other_mri")
    torch.manual_seed(1)
    with caplog.at_level(logging.INFO, "custom_components"):
        started = own(
            network_on_trunk(models / "trunk.safetensors", other, warm_start=models / "heart_mri.safetensors"), "other_mri"
        )
    # Filters: 1×3×3 into the middle of 3×3×3, and the middle plane of 3×3×3.
    grown, cut = "encoder.0.first.depthwise.weight", "encoder.1.first.depthwise.weight"
    assert torch.equal(started[grown][:, :, 1:2], heart[grown]) and not started[grown][:, :, ::2].any()
    assert torch.equal(started[cut], heart[cut][:, :, 1:2])
    # The stem: an image given three times is seen as it was.
    x = torch.randn(1, 1, 3, 5, 5)
    seen = functional.conv3d(x.expand(-1, 3, -1, -1, -1), started["stem.conv.weight"], padding=1)
    torch.testing.assert_close(seen, functional.conv3d(x, heart["stem.conv.weight"], padding=(0, 1, 1)), atol=1e-5, rtol=1e-5)
    # Classes mean something else: as drawn, all the rest as in the other domain.
    classes = {"output.weight", "output.bias", "heads.1.conv.weight", "heads.1.conv.bias"}
    assert all(torch.equal(started[name], drawn[name]) for name in classes)
    rest = [name for name in started if name not in classes and started[name].shape == heart[name].shape]
    assert len(rest) > 20 and all(torch.equal(started[name], heart[name]) for name in rest)
    assert "4 random (heads.1.conv.weight, heads.1.conv.bias, output.weight, output.bias)" in caplog.text
    assert "stem.conv.weight" in caplog.text


def test_mean_takes_what_lies_beside_the_trunk(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trunk = models / "trunk.safetensors"
    beside = own(network_on_trunk(trunk, domain("hand_mri"), warm_start="mean"), "hand_mri")
    folder = own(network_on_trunk(trunk, domain("hand_mri"), warm_start=models), "hand_mri")
    assert beside.keys() == folder.keys()
    assert all(torch.equal(beside[key], folder[key]) for key in beside if "head" not in key)
    assert "random values" not in caplog.text
    # Alone, or with its own adapter only, it starts from random values, and says so; a given adapter is taken as it is.
    lonely = tmp_path / "alone"
    lonely.mkdir()
    for name in ("trunk", "heart_mri"):
        shutil.copy(models / f"{name}.safetensors", lonely)
    torch.manual_seed(0)
    alone = own(network_on_trunk(lonely / "trunk.safetensors", HEART, warm_start="mean"), "heart_mri")
    assert "'heart_mri' starts from random values" in caplog.text
    torch.manual_seed(0)
    random = own(network_on_trunk(trunk, HEART, warm_start="random"), "heart_mri")  # though others lie beside it
    assert all(torch.equal(alone[key], random[key]) for key in random)
    given = own(network_on_trunk(trunk, HEART, adapter=models / "heart_mri.safetensors", warm_start="mean"), "heart_mri")
    plain = own(network_on_trunk(trunk, HEART, adapter=models / "heart_mri.safetensors"), "heart_mri")
    assert all(torch.equal(given[key], plain[key]) for key in plain)


def test_warm_start_from_a_folder_is_the_mean(models: Path) -> None:
    network = load_network(models)
    heart, liver, knee = (own(network, name) for name in ("heart_mri", "liver_ct", "knee_mri"))
    started = own(network_on_trunk(models / "trunk.safetensors", domain("hand_mri"), warm_start=models), "hand_mri")
    for name in ("stem.norm.weight", "encoder.1.first.depthwise.weight"):
        torch.testing.assert_close(started[name], (heart[name] + liver[name] + knee[name]) / 3)
    # The knee has another stem and other classes: it has no part in these.
    for name in ("stem.conv.weight", "output.bias"):
        torch.testing.assert_close(started[name], (heart[name] + liver[name]) / 2)
    # A domain that is trained anew does not start from itself.
    again = own(network_on_trunk(models / "trunk.safetensors", HEART, warm_start=models), "heart_mri")
    torch.testing.assert_close(again["output.bias"], liver["output.bias"])


def test_a_shallower_domain_lends_what_it_has(models: Path) -> None:
    shallow = domain("toe_mri", strides=[[1, 2, 2]], kernel_sizes=[[1, 3, 3], [3, 3, 3]])
    network = load_network(models)
    network.add_domain(shallow.name, shallow.network)
    save_bundle_weights(network, models)
    started = own(
        network_on_trunk(models / "trunk.safetensors", domain("a_mri"), warm_start=models / "toe_mri.safetensors"), "a_mri"
    )
    toe = own(network, "toe_mri")
    assert all(torch.equal(started[name], toe[name]) for name in toe)
    assert {name.split(".")[0] for name in started.keys() - toe.keys()} == {"encoder", "down", "up", "decoder", "heads"}


def test_fitted_keeps_what_a_filter_does() -> None:
    torch.manual_seed(0)
    x, small = torch.randn(1, 4, 6, 7, 8), torch.randn(4, 1, 1, 3, 3)
    large = fitted(small, torch.empty(4, 1, 3, 5, 3), "encoder.0.first.depthwise.weight")
    assert large is not None
    expected = functional.conv3d(x, small, padding=(0, 1, 1), groups=4)
    torch.testing.assert_close(functional.conv3d(x, large, padding=(1, 2, 1), groups=4), expected)
    assert fitted(torch.ones(2, 3), torch.ones(2, 2), "x") is None
    assert fitted(torch.ones(2, 4, 1, 1, 1), torch.ones(2, 3, 1, 1, 1), "output.weight") is None


def test_what_does_not_fit_is_refused(models: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    trunk, ours = models / "trunk.safetensors", load_network(models).trunk_fingerprint()
    other = tmp_path_factory.mktemp("other")
    stranger = U2Net({"heart_mri": HEART.network}, **PLAN)
    save_bundle_weights(stranger, other)
    both = f"trunk {stranger.trunk_fingerprint()}, but this trunk is {ours}"
    for way in ("adapter", "warm_start"):
        with pytest.raises(WeightsError, match=both):
            network_on_trunk(trunk, HEART, **{way: other / "heart_mri.safetensors"})

    save_bundle_weights(U2Net({"heart_mri": HEART.network}, channels=(2, 3, 5), deep_supervision="heads"), other)
    with pytest.raises(WeightsError, match=r"another architecture: channels \[2, 3, 5\] against \[2, 3, 4\]"):
        network_on_trunk(trunk, HEART, other / "heart_mri.safetensors")

    deep = domain("deep_mri", patch_size=[8, 8, 8], strides=[[2, 2, 2]] * 3, kernel_sizes=[[3, 3, 3]] * 4)
    with pytest.raises(WeightsError, match=r"trunk.safetensors: has 3 levels, domain 'deep_mri' wants 4"):
        network_on_trunk(trunk, deep)
    with pytest.raises(WeightsError, match="is the adapter of 'liver_ct', not of 'heart_mri'"):
        network_on_trunk(trunk, HEART, models / "liver_ct.safetensors")
    with pytest.raises(WeightsError, match=r"in_channels is 1, but domain\.json says 2"):
        network_on_trunk(trunk, domain("heart_mri", 2), models / "heart_mri.safetensors")
    with pytest.raises(WeightsError, match="give one of them"):
        network_on_trunk(trunk, HEART, models / "heart_mri.safetensors", models)
    with pytest.raises(WeightsError, match="no adapter of another domain"):
        network_on_trunk(trunk, HEART, warm_start=tmp_path_factory.mktemp("empty"))
    with pytest.raises(WeightsError, match="is no trunk file"):
        network_on_trunk(models / "heart_mri.safetensors", HEART)


def test_a_dense_trunk_wants_its_own_filters(tmp_path: Path) -> None:
    cube = domain("cube_mri", patch_size=[4, 4, 4], strides=[[2, 2, 2]] * 2, kernel_sizes=[[3, 3, 3]] * 3)
    save_bundle_weights(U2Net({"cube_mri": cube.network}, channels=(2, 3, 4), adapter="parallel"), tmp_path)
    new = cube.model_copy(update={"name": "new_mri"})
    network = network_on_trunk(tmp_path / "trunk.safetensors", new)
    assert network.trunk_fingerprint() == load_network(tmp_path).trunk_fingerprint()
    with pytest.raises(WeightsError, match="does not fit the network; wrong shape"):
        network_on_trunk(tmp_path / "trunk.safetensors", HEART)
