"""The steps before and after the network, as ``configs/inference.json`` of a bundle has them.

There the windows give logits, of which ``LargestClassd`` takes the largest; here `class_map` gives classes at once.

Array order within the chain is z, y, x (axes ``SAR``). A test holds both versions together.
"""

from __future__ import annotations

from monai.transforms import Compose, EnsureTyped, Invertd, Orientationd

from custom_components.domain import Domain
from custom_components.transforms import (
    CheckImaged,
    ClipAndStandardized,
    CropNonzerod,
    GridSpacingd,
    KeepComponentsd,
)

__all__ = ["AXES", "STAGES", "postprocessing", "preprocessing"]

AXES = "SAR"  # z towards superior, y anterior, x right
WORLD = (("L", "R"), ("P", "A"), ("I", "S"))
# What a report calls the steps.
STAGES: dict[type, str] = {
    CheckImaged: "check",
    Orientationd: "orient",
    CropNonzerod: "crop",
    GridSpacingd: "resample",
    ClipAndStandardized: "intensities",
    EnsureTyped: "convert",
    KeepComponentsd: "components",
    Invertd: "restore",
}


def preprocessing(domain: Domain, keys: str = "image") -> Compose:
    """From an image as read to network input; every geometric step can be inverted.

    Args:
        domain: what spacing, margin and intensities to use.
        keys: the image, (C, X, Y, Z), a `MetaTensor` (see `custom_components.data.read_image`).
    """
    return Compose(
        [
            CheckImaged(keys, channels=domain.in_channels),
            Orientationd(keys, axcodes=AXES, labels=WORLD),
            # The box ends at the image: padding it with zeros would shift the percentiles.
            CropNonzerod(keys, source_key=keys, margin=domain.crop_margin),
            GridSpacingd(keys, pixdim=domain.spacing, mode=3),
            ClipAndStandardized(keys, **domain.intensity.model_dump()),
            EnsureTyped(keys),
        ]
    )


def postprocessing(domain: Domain, transform: Compose, keys: str = "pred", orig_keys: str = "image") -> Compose:
    """From a class map (1, Z, Y, X) to one (1, X, Y, Z) on the grid that the image had before ``transform``.

    Args:
        domain: the rules per label.
        transform: the preprocessing that made the network's input.
        keys: the class map.
        orig_keys: the network's input, which carries the trace of ``transform``.
    """
    return Compose(
        [
            KeepComponentsd(keys, labels=domain.labels, rules=domain.postprocessing),
            Invertd(keys, transform=transform, orig_keys=orig_keys, nearest_interp=True, to_tensor=True),
        ]
    )
