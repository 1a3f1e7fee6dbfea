"""Several networks as one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from custom_components.inference import Ensemble, Segmenter
from custom_components.networks import U2Net
from custom_components.weights import load_network, save_bundle_weights
from tests.inference.oracles import small_bundle
from tests.phantoms import hippocampus_like, save_nifti


def test_probabilities_are_averaged() -> None:
    torch.manual_seed(0)
    networks = [nn.Conv3d(1, 3, 1) for _ in range(3)]
    x = torch.randn(2, 1, 4, 5, 6)
    expected = np.mean([torch.softmax(n(x), 1).detach().numpy() for n in networks], axis=0)
    assert np.allclose(Ensemble(networks)(x).exp().detach().numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


def test_networks_of_several_folders_segment_together(bundle: Path, tmp_path: Path) -> None:
    small = small_bundle(bundle, tmp_path / "small")
    shutil.copytree(small / "models", tmp_path / "a")
    network = load_network(small / "models")
    torch.manual_seed(8)
    other = U2Net(**network.config)
    save_bundle_weights(other, tmp_path / "b")
    image = save_nifti(tmp_path / "image.nii.gz", hippocampus_like()[0])
    both = Segmenter.from_bundle(small, "cpu", models=[tmp_path / "a", tmp_path / "b"])
    assert isinstance(both.network, Ensemble)
    one = Segmenter.from_bundle(small, "cpu").segment(image).label
    assert torch.equal(Segmenter.from_bundle(small, "cpu", models=[tmp_path / "a"]).segment(image).label, one)
    twice = Segmenter.from_bundle(small, "cpu", models=[tmp_path / "a", tmp_path / "a"]).segment(image).label
    assert (twice != one).float().mean() < 1e-3  # the mean of two equal probabilities; only rounding differs
    assert not torch.equal(both.segment(image).label, one)
