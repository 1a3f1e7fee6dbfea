"""How patches are drawn, and what a step of them costs."""

from __future__ import annotations

import math

from custom_components.planning.decisions import Decision, Decisions, rounded
from custom_components.planning.facts import DatasetFacts, label_shares
from custom_components.planning.geometry import Size3

__all__ = ["cost_of", "plan_sampling"]

# The original's shares of patches centred on any class and on the smallest, and larger ones for what is rare.
USUAL, RARE, VERY_RARE = (0.333, 0.3), (0.3, 0.4), (0.25, 0.5)
RARE_SHARE, VERY_RARE_SHARE = 0.05, 0.01
DATA_SHARE = 0.05  # of the data set's voxels in one batch at most, as nnU-Net
SMALLEST_BATCH = 2

# Of a training step (forward, backward, AdamW) of the separable network with widths 16, 32, 64, 128, 256 on two patches of
# 64³, float32: peak memory beyond that of the imports, and time on two cores of a server CPU, for one voxel of the batch.
BYTES_PER_VOXEL = 4.8e3
SECONDS_PER_VOXEL = 10e-6


def plan_sampling(facts: DatasetFacts, shape: Size3, patch: Size3, patch_voxels: int) -> Decisions:
    """Batch size and the two probabilities.

    Args:
        facts: of the data set.
        shape: of the median image at the target spacing, voxels.
        patch: voxels.
        patch_voxels: bound of a patch; a step takes twice that.
    """
    voxels = math.prod(patch)
    fits = SMALLEST_BATCH * patch_voxels // voxels
    of_data = int(DATA_SHARE * len(facts.cases) * math.prod(shape) // voxels)
    batch = max(SMALLEST_BATCH, min(fits, of_data))
    why = f"a step takes {SMALLEST_BATCH} × {patch_voxels} voxels, {fits} patches"
    if of_data < fits:
        why += f"; {100 * DATA_SHARE:g} % of all voxels are {of_data}; at least {SMALLEST_BATCH}"
    (foreground, smallest), told = _probabilities(facts)
    return {
        "sampling.batch_size": Decision(batch, f"{why}. {cost_of(patch, batch)}"),
        "sampling.foreground": Decision(foreground, told),
        "sampling.smallest_class": Decision(
            smallest, f"{told}; the rest, {rounded(1 - foreground - smallest)}, is centred anywhere"
        ),
    }


def cost_of(patch: Size3, batch: int) -> str:
    """What a training step takes, as a sentence."""
    voxels = batch * math.prod(patch)
    memory, seconds = voxels * BYTES_PER_VOXEL / 1e9, voxels * SECONDS_PER_VOXEL
    return (
        f"A step takes about {rounded(memory)} GB (float32, 16 channels at the finest level), "
        f"on two CPU cores {rounded(seconds)} s"
    )


def _probabilities(facts: DatasetFacts) -> tuple[tuple[float, float], str]:
    shares = label_shares(facts)
    rarest = min(shares, key=lambda value: shares[value])
    share = shares[rarest]
    named = f"{facts.labels[rarest]} ({rarest}) has {rounded(100 * share)} % of the labelled voxels of a median case"
    if len(shares) == 1:
        return USUAL, "the original's; with one class both mean that"
    if share < VERY_RARE_SHARE:
        return VERY_RARE, f"{named}, under {100 * VERY_RARE_SHARE:g} %: half of the patches"
    if share < RARE_SHARE:
        return RARE, f"{named}, under {100 * RARE_SHARE:g} %: more patches than the original's {USUAL[1]:g}"
    return USUAL, f"the original's; {named}, which is not rare"
