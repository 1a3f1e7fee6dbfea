"""The original's losses, against numbers made with its code, and deep supervision against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss
from torch.nn import functional as F

from custom_components.training import DeepSupervised, FocalLovaszLoss, focal, lovasz_softmax

VECTORS = Path(__file__).parents[1] / "vectors" / "losses.npz"


@pytest.mark.parametrize("case", ["0", "1", "2"])
def test_values_and_gradients_equal_the_original(case: str) -> None:
    data = np.load(VECTORS)
    logits = torch.from_numpy(data[f"{case}/logits"]).requires_grad_()
    target = torch.from_numpy(data[f"{case}/target"])
    assert lovasz_softmax(logits, target).item() == pytest.approx(float(data[f"{case}/lovasz_softmax"]), rel=1e-5)
    assert focal(logits, target).item() == pytest.approx(float(data[f"{case}/focal"]), rel=1e-5)
    FocalLovaszLoss()(logits, target[:, None]).backward()
    expected = data[f"{case}/grad_of_sum"]
    np.testing.assert_allclose(logits.grad.numpy(), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_lovasz_of_a_hard_segmentation_is_one_minus_jaccard() -> None:
    """At the corners of the cube the extension is the set function itself (Berman et al., definition 2)."""
    truth, guess = torch.randint(0, 2, (2, 1, 6, 6, 6), generator=torch.Generator().manual_seed(0))
    logits = (F.one_hot(guess, 2).movedim(-1, 1).float() - 0.5) * 200
    jaccard = [((truth == c) & (guess == c)).sum() / ((truth == c) | (guess == c)).sum() for c in (0, 1)]
    assert lovasz_softmax(logits, truth).item() == pytest.approx(1 - sum(jaccard).item() / 2, abs=1e-5)


def test_focal_without_focus_is_cross_entropy() -> None:
    logits, target = torch.randn(2, 3, 4, 4, 4), torch.randint(0, 3, (2, 4, 4, 4))
    torch.testing.assert_close(focal(logits, target, gamma=0.0), F.cross_entropy(logits, target))


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits, target = torch.randn(1, 3, 24, 24, 24), torch.randint(0, 3, (1, 1, 24, 24, 24))
    full = FocalLovaszLoss()(logits.bfloat16().float(), target)
    torch.testing.assert_close(FocalLovaszLoss()(logits.bfloat16(), target), full)


def heads(levels: int) -> list[torch.Tensor]:
    return [torch.randn(2, 3, 16 >> i, 8 >> i, 16 >> i) for i in range(levels)]


def test_levels_are_weighted_and_normalised() -> None:
    loss = DiceCELoss(to_onehot_y=True, softmax=True, batch=True, include_background=False)
    outputs = heads(3)
    target = torch.randint(0, 3, (2, 1, 16, 8, 16)).to(torch.uint8)
    coarse = [target, target[:, :, 1::2, 1::2, 1::2], target[:, :, 2::4, 2::4, 2::4]]  # nearest to the coarse voxel's centre
    parts = [loss(o, t) for o, t in zip(outputs, coarse, strict=True)]
    expected = (4 * parts[0] + 2 * parts[1] + parts[2]) / 7
    torch.testing.assert_close(DeepSupervised(loss, (1, 0.5, 0.25))(outputs, target), expected)


def test_equal_losses_give_that_loss_whatever_the_number_of_levels() -> None:
    ones = torch.nn.Module()
    ones.forward = lambda logits, target: logits.sum() * 0 + 1  # type: ignore[method-assign]
    target = torch.zeros(2, 1, 16, 8, 16)
    for levels in (1, 2, 3, 4):
        assert DeepSupervised(ones)(heads(levels), target).item() == pytest.approx(1)


def test_one_tensor_is_the_plain_loss() -> None:
    logits, target = heads(1)[0], torch.randint(0, 3, (2, 1, 16, 8, 16))
    torch.testing.assert_close(DeepSupervised(FocalLovaszLoss())(logits, target), FocalLovaszLoss()(logits, target))


def test_weights_must_count_the_full_resolution() -> None:
    with pytest.raises(ValueError, match="weights"):
        DeepSupervised(FocalLovaszLoss(), (0.0, 1.0))
