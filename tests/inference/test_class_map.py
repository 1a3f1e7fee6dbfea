"""Windows straight to classes: the same as logits of the whole volume, then the largest class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data.utils import dense_patch_slices

from custom_components.inference.class_map import class_map, window_starts
from custom_components.inference.windows import WindowInferer
from custom_components.transforms import LargestClass


def network(seed: int = 0, channels: int = 1) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Conv3d(channels, 4, 3, padding=1).eval()


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 21)] * 3),
    roi=st.tuples(*[st.integers(2, 9)] * 3),
    batch=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_equal_to_the_logits_of_the_whole_volume(shape, roi, batch, seed):
    net, image = network(seed, 2), torch.randn(2, *shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        logits = WindowInferer(roi, batch)(image[None], net)[0]
    found = class_map(image, net, roi, sw_batch_size=batch)
    assert found.dtype == torch.uint8 and found.shape == (1, *shape)
    best = logits.topk(2, dim=0).values
    sure = (best[0] - best[1] > 1e-5)[None]  # two classes that score alike may be told apart by rounding
    assert torch.equal(found[sure], LargestClass()(logits)[sure])


@given(roi=st.integers(1, 20), more=st.integers(0, 60), overlap=st.sampled_from([0.0, 0.25, 0.5, 0.75]))
def test_windows_are_monais_and_none_comes_twice(roi, more, overlap):
    length = roi + more
    step = roi if more == 0 else max(1, int(roi * (1 - overlap)))
    expected = [s[0].start for s in dense_patch_slices((length,), (roi,), (step,))]
    found = window_starts(length, roi, overlap)
    assert found == expected
    assert len(set(found)) == len(found)
    covered = {i for start in found for i in range(start, start + roi)}
    assert covered == set(range(length))


def test_progress_is_told_and_ends():
    told: list[tuple[int, int]] = []
    class_map(torch.randn(1, 9, 10, 11), network(), (4, 4, 4), sw_batch_size=3, advance=lambda *counts: told.append(counts))
    assert told[-1][0] == told[-1][1]
    assert [done for done, _ in told] == sorted({done for done, _ in told})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_refused(bad):
    def broken(x):
        scores = torch.zeros(len(x), 3, *x.shape[2:])
        scores[:, 1, 0, 0, 0] = bad
        return scores

    with pytest.raises(RuntimeError, match="NaN"):
        class_map(torch.randn(1, 6, 6, 6), broken, (4, 4, 4))


def test_half_precision_images_are_summed_in_float32():
    image = torch.randn(1, 6, 7, 8)
    found = class_map(image.to(torch.bfloat16), network(), (4, 4, 4))
    assert torch.equal(found, class_map(image.to(torch.bfloat16).float(), network(), (4, 4, 4)))
