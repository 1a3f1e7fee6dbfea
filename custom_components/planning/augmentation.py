"""What training does to a patch: the shipped hippocampus domain's values, narrowed to what the voxels allow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from custom_components.planning.decisions import Decision, Decisions, rounded
from custom_components.planning.geometry import Size3, Spacing3, coarse_axis

__all__ = ["plan_augmentation", "sided"]

ANGLE = 0.35  # radians, 20°
SIGMA = (10.0, 13.0)  # voxels
DISPLACEMENT, COARSE_DISPLACEMENT = 2.1, 0.5  # voxels, standard deviation at the lower sigma
SIDE = re.compile(r"(?:^|_)(left|right|l|r|lt|rt|lh|rh|lv|rv|la|ra)(?:_|$)")

FROM_SHIPPED = "as in the shipped hippocampus domain"


def plan_augmentation(classes: Iterable[str], spacing: Spacing3, patch: Size3) -> Decisions:
    """Ranges and probabilities.

    Args:
        classes: names of the labels, lower-case with underscores.
        spacing: mm.
        patch: voxels.
    """
    intensities = {
        "noise": {"probability": 0.15, "range": [0.0, 0.2]},
        "blur": {"probability": 0.15, "range": [0.5, 1.0]},
        "brightness": {"probability": 0.2, "range": [0.75, 1.25]},
        "contrast": {"probability": 0.2, "range": [0.75, 1.25]},
        "gamma": {"probability": 0.3, "range": [0.7, 1.5]},
    }
    return {
        "augmentation.elastic": _elastic(spacing, patch),
        "augmentation.rotation": _rotation(spacing, patch),
        "augmentation.scale": Decision({"probability": 0.5, "range": [0.8, 1.25]}, FROM_SHIPPED),
        "augmentation.mirror": _mirror(classes),
        **{f"augmentation.{name}": Decision(value, f"{FROM_SHIPPED}; of z-scores") for name, value in intensities.items()},
    }


def sided(classes: Iterable[str]) -> list[str]:
    """The names that tell a side, as ``left_kidney`` or ``lv`` do."""
    return [name for name in classes if SIDE.search(name)]


def _rotation(spacing: Spacing3, patch: Size3) -> Decision:
    """Rotation is rigid in mm. Out of the plane of thick slices it ends where the patch's edge would leave its slice."""
    coarse = coarse_axis(spacing)
    if coarse is None:
        why = f"20° about every axis; the spacings differ by a factor {rounded(max(spacing) / min(spacing))}, 3 at most"
        return Decision(_turns([ANGLE] * 3), why)
    reach = max(n * s for axis, (n, s) in enumerate(zip(patch, spacing, strict=True)) if axis != coarse) / 2
    tilt = round(min(ANGLE, math.atan(spacing[coarse] / reach)), 3)
    angles = [ANGLE if axis == coarse else tilt for axis in range(3)]
    why = (
        f"20° within the slices; out of them {math.degrees(tilt):.1f}°, which moves the patch's edge, {reach:.0f} mm away, by "
        f"{rounded(reach * math.tan(tilt))} mm, where a slice has {spacing[coarse]:.3g} mm"
    )
    return Decision(_turns(angles), why)


def _elastic(spacing: Spacing3, patch: Size3) -> Decision:
    """Displacements are equal in voxels along all axes, so thick slices allow smaller ones."""
    coarse = coarse_axis(spacing)
    extent = min(n for axis, n in enumerate(patch) if axis != coarse)
    shrink = min(1.0, extent / (4 * SIGMA[0]))
    low, high = (round(max(1.0, sigma * shrink), 1) for sigma in SIGMA)
    ratio = max(spacing) / min(spacing)
    displacement = max(COARSE_DISPLACEMENT, DISPLACEMENT / ratio)
    # The standard deviation of the displacement is alpha / √3 · (2 √π sigma)^(−3/2): see RandElastic.
    alpha = float(round(displacement * math.sqrt(3) * (2 * math.sqrt(math.pi) * low) ** 1.5))
    why = (
        f"up to {rounded(displacement)} voxels (standard deviation at sigma {low:g}), "
        f"{rounded(displacement * max(spacing))} mm along the "
        f"coarsest axis; sigma in voxels, "
        + (f"a quarter of the patch's {extent}" if shrink < 1 else "the original's")
        + (f"; smaller than {DISPLACEMENT:g} voxels, for the spacings differ by a factor {rounded(ratio)}" if ratio > 1 else "")
    )
    return Decision({"probability": 0.3, "sigma": [low, high], "alpha": [0.0, alpha]}, why)


def _mirror(classes: Iterable[str]) -> Decision:
    if names := sided(classes):
        why = f"off: {', '.join(names)} would be called by the wrong side in a mirror image"
        return Decision({"probability": 0.0, "axes": []}, why)
    return Decision({"probability": 0.5, "axes": [2]}, "left and right, as the original; no label tells a side")


def _turns(angles: Iterable[float]) -> dict:
    return {"probability": 0.5, "angles": [[-a, a] for a in angles]}
