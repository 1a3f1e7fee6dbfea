"""The nine domains: the published recipe's values, kernels that fit the voxels, networks that build and fit their metadata."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, verify_net_in_out

from custom_components.networks import U2Net
from tests.bundles.conftest import MADE, Made

# z, y, x: spacing in mm, patch, halvings per axis, batch; and the parameters of the publication's independent network.
RECIPE = {
    "heart_mri": ((1.37, 1.25, 1.25), (80, 192, 128), (4, 5, 5), 2, 33_113_214),
    "liver_ct": ((1, 0.77, 0.77), (128, 128, 128), (5, 5, 5), 2, 33_113_214),
    "hippocampus_mri": ((1, 1, 1), (40, 56, 40), (3, 3, 3), 9, 2_055_285),
    "prostate_mri": ((3.6, 0.625, 0.625), (20, 192, 192), (2, 5, 5), 4, 33_113_765),
    "pancreas_ct": ((2.5, 0.8, 0.8), (96, 160, 128), (4, 5, 5), 2, 33_113_214),
    "spleen_ct": ((5, 0.8, 0.8), (96, 160, 128), (4, 5, 5), 2, 33_113_214),
}
NINE = {*RECIPE, "abdomen_mri", "headneck_ct", "cardiac_mri"}


def parser_of(made: Made, *files: str) -> ConfigParser:
    parser = ConfigParser()
    parser.read_config([str(made.folder / "configs" / name) for name in files])
    parser["bundle_root"] = str(made.folder)
    return parser


def test_all_nine_are_there() -> None:
    names = {Made(path).domain.name: path.name for path in MADE}
    assert names.keys() >= NINE
    assert {name: folder for name, folder in names.items() if folder != f"{name}_segmentation"} == {}


def test_the_published_recipe(made: Made) -> None:
    domain = made.domain
    if domain.name not in RECIPE:
        pytest.skip("not in the publication")
    spacing, patch, pools, batch, parameters = RECIPE[domain.name]
    assert domain.spacing == spacing
    assert domain.patch_size == patch
    assert tuple(sum(stride[axis] == 2 for stride in domain.strides) for axis in range(3)) == pools
    assert domain.intensity.model_dump() == {"floor": -1024.0, "percentiles": (2.0, 98.0), "statistics": "positive"}
    parser = parser_of(made, "train.json", "original_recipe.json")
    assert parser.get_parsed_content("batch_size") == batch
    with torch.device("meta"):
        network = parser.get_parsed_content("network_def")
    assert sum(p.numel() for p in network.parameters()) == parameters
    steps = network.config["domains"][domain.name]["strides"]
    assert [[2 if i < n else 1 for n in pools] for i in range(len(steps))] == steps


def test_what_trains_with_the_recipe_is_what_it_is_scored_with(made: Made) -> None:
    trained, scored = (
        parser_of(made, f"{name}.json", f"original_{what}.json")["network_def"]
        for name, what in (("train", "recipe"), ("evaluate", "network"))
    )
    assert trained == scored


def test_kernels_are_flat_while_voxels_are_long_and_slices_are_not_joined(made: Made) -> None:
    """1×3×3 where a level's voxels are about twice as long as wide, or longer, up to the level from which slices are joined."""
    domain = made.domain
    sizes = np.array(domain.spacing)
    for level, kernel in enumerate(domain.kernel_sizes):
        stride = domain.strides[level] if level < len(domain.strides) else (2, 2, 2)
        flat = sizes.max() / sizes.min() > 1.9 and stride[0] == 1 and sizes.argmax() == 0
        assert kernel == ((1, 3, 3) if flat else (3, 3, 3)), level
        sizes = sizes * stride


def test_no_mirror_where_left_and_right_differ(made: Made) -> None:
    mirror = made.domain.augmentation.mirror
    assert (mirror.probability > 0) == (made.domain.name in ("hippocampus_mri", "prostate_mri"))
    assert bool(mirror.axes) == (mirror.probability > 0)


def test_elastic_deformation_stays_small(made: Made) -> None:
    """One standard deviation (`RandElastic`'s formula), at its largest, is at most 3 mm, or one voxel where that is longer."""
    elastic = made.domain.augmentation.elastic
    if elastic.probability == 0:
        pytest.skip("switched off")
    deviation = elastic.alpha[1] / math.sqrt(3) * (2 * math.sqrt(math.pi) * elastic.sigma[0]) ** -1.5
    longest = max(made.domain.spacing)
    assert 0.3 < deviation * longest < max(3.0, longest)


def test_the_network_of_the_configurations(made: Made) -> None:
    network: U2Net = parser_of(made, "inference.json").get_parsed_content("network_def")
    domain = made.domain
    levels = len(domain.strides) + 1
    expected = [24, 48, 96, 192] if domain.name == "hippocampus_mri" else [16, 32, 64, 128, 256, 512][:levels]
    assert network.config["channels"] == expected
    assert network.config["domains"] == {domain.name: domain.network}
    heads = network.train()(torch.randn(1, domain.in_channels, *[2 * math.prod(s[a] for s in domain.strides) for a in range(3)]))
    weights = json.loads((made.folder / "configs" / "train.json").read_text())["loss"]["weights"]
    assert len(heads) == len(weights)
    assert heads[0].shape[1] == domain.out_channels


def test_monais_command_accepts_network_and_metadata(made: Made) -> None:
    verify_net_in_out(
        net_id="network_def",
        config_file=str(made.folder / "configs" / "inference.json"),
        meta_file=str(made.folder / "configs" / "metadata.json"),
        bundle_root=str(made.folder),
        device="cpu",
    )


def test_labels_are_those_of_the_real_data(made: Made, real_data: Path) -> None:
    folder = real_data / made.facts.dataset
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} here")
    described = json.loads((folder / "dataset.json").read_text())
    named = {int(index): re.sub(r"\W", "_", name).lower() for index, name in described["labels"].items()}
    assert named == {index: name for name, index in made.domain.labels.items()}
    assert len(described["modality"]) == made.domain.in_channels
    assert {"MRI": "MR", "CT": "CT"}[described["modality"]["0"]] == made.domain.modality
