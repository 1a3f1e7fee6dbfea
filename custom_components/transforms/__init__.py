"""MONAI transforms of the project: intensities, labels, patches, post-processing, checks. Array and dictionary versions."""

from custom_components.transforms.checks import CheckImage, CheckImaged, CheckLabel, CheckLabeld
from custom_components.transforms.classes import LargestClass, LargestClassd, nonzero
from custom_components.transforms.components import KeepComponents, KeepComponentsd, close_mask, largest_components
from custom_components.transforms.intensity import ClipAndStandardize, ClipAndStandardized
from custom_components.transforms.labels import MapLabels, MapLabelsd
from custom_components.transforms.patches import RandPatchd, sample_patch

__all__ = [
    "CheckImage",
    "CheckImaged",
    "CheckLabel",
    "CheckLabeld",
    "ClipAndStandardize",
    "ClipAndStandardized",
    "KeepComponents",
    "KeepComponentsd",
    "LargestClass",
    "LargestClassd",
    "MapLabels",
    "MapLabelsd",
    "RandPatchd",
    "close_mask",
    "largest_components",
    "nonzero",
    "sample_patch",
]
