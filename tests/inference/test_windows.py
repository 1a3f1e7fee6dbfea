from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from custom_components.inference import WindowInferer, distance_weights

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "patch_weights.npz"


class Convolution(torch.nn.Module):
    """Depends on the position in the window (zero padding), so windows disagree where they overlap."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv3d(1, 3, 5, padding=2)
        weights = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=weights))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(1, 1, *shape, generator=torch.Generator().manual_seed(1))


def starts(length: int, window: int) -> list[int]:
    """Half overlap, the last window flush with the border."""
    return sorted({min(s, length - window) for s in range(0, length, window // 2) if s - window // 2 < length - window or s == 0})


def test_weights_equal_the_frozen_vectors() -> None:
    with np.load(VECTORS) as vectors:
        shape, expected = vectors["shape"], vectors["weights"]
    np.testing.assert_allclose(distance_weights(shape.tolist(), torch.float64).numpy(), expected, rtol=1e-12, atol=0)


def test_windows_are_weighted_and_summed_as_written_down() -> None:
    """Against a plain loop over windows in float64."""
    window, network, x = (8, 6, 10), Convolution(), image(13, 6, 22)
    weights = distance_weights(window, torch.float64)
    total, norm = torch.zeros(1, 3, 13, 6, 22, dtype=torch.float64), torch.zeros(13, 6, 22, dtype=torch.float64)
    with torch.no_grad():
        for corner in itertools.product(*(starts(n, w) for n, w in zip(x.shape[2:], window, strict=True))):
            where = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
            total[(..., *where)] += network(x[(..., *where)]).double() * weights
            norm[where] += weights
        got = WindowInferer(window, sw_batch_size=3)(x, network)
    np.testing.assert_allclose(got.numpy(), (total / norm).numpy(), rtol=1e-4, atol=1e-4)


def test_a_volume_smaller_than_the_window_is_padded_and_cut_back() -> None:
    network, x = Convolution(), image(5, 7, 4)
    padded = torch.nn.functional.pad(x, (2, 2, 0, 1, 1, 2))
    with torch.no_grad():
        got = WindowInferer((8, 8, 8))(x, network)
        expected = network(padded)[:, :, 1:6, 0:7, 2:6]
    assert got.shape == (1, 3, 5, 7, 4)
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-5, atol=1e-5)


def test_flips_average_the_probabilities_of_every_combination() -> None:
    network, x = Convolution(), image(8, 9, 10)
    plain = WindowInferer((8, 8, 8))
    with torch.no_grad():
        passes = [plain(x.flip(d) if d else x, network).softmax(1).flip(d) for d in ([], [2], [4], [2, 4])]
        got = WindowInferer((8, 8, 8), flip_axes=(0, 2))(x, network)
    np.testing.assert_allclose(got.softmax(1).numpy(), torch.stack(passes).mean(0).numpy(), atol=1e-6)


@pytest.mark.parametrize("mode", ["distance", "gaussian", "constant"])
def test_a_network_that_sees_one_voxel_gives_the_same_in_every_mode(mode: str) -> None:
    class Pointwise(torch.nn.Module):
        def forward(self, x: torch.Tensor, domain: str = "") -> torch.Tensor:
            assert domain == "organ"
            return torch.cat([x, 2 * x], dim=1)

    x = MetaTensor(image(9, 10, 11), affine=np.diag([1.0, 2, 3, 1]))
    for flips in ((), (1,)):
        got = WindowInferer((6, 6, 6), mode=mode, flip_axes=flips)(x, Pointwise(), domain="organ")
        expected = torch.cat([x, 2 * x], dim=1).as_tensor()
        np.testing.assert_allclose(got.softmax(1).numpy(), expected.softmax(1).numpy(), atol=1e-5)
        assert torch.equal(got.affine, x.affine)


def test_half_precision_does_not_lose_the_corners() -> None:
    got = WindowInferer((4, 4, 4))(image(6, 6, 6).to(torch.bfloat16), lambda x: torch.cat([x, -x], dim=1))
    assert torch.isfinite(got).all()


@pytest.mark.parametrize("arguments", [{"roi_size": (0, 4, 4)}, {"flip_axes": (3,)}, {"flip_axes": (1, 1)}, {"mode": "round"}])
def test_refuses_wrong_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"roi_size|flip_axes|round"):
        WindowInferer(**{"roi_size": (4, 4, 4), **arguments})
