"""MONAI transforms of the project: intensities, labels, patches, post-processing, checks. Array and dictionary versions."""

from custom_components.transforms.checks import CheckImage, CheckImaged, CheckLabel, CheckLabeld
from custom_components.transforms.classes import LargestClass, LargestClassd
from custom_components.transforms.components import KeepComponents, KeepComponentsd, close_mask, largest_components
from custom_components.transforms.crop import CropNonzero, CropNonzerod
from custom_components.transforms.deform import deform, deformed_coordinates
from custom_components.transforms.deform_crop import RandDeformCropd
from custom_components.transforms.deformation import Deformation, Elastic, Flip, Rotate, Scale, Translate
from custom_components.transforms.intensity import ClipAndStandardize, ClipAndStandardized
from custom_components.transforms.labels import MapLabels, MapLabelsd
from custom_components.transforms.rand_deform import RandDeform, RandDeformBatchd, RandDeformd
from custom_components.transforms.random_operations import RandElastic, RandFlip, RandRotate, RandScale, RandTranslate
from custom_components.transforms.spacing import GridResample, GridSpacingd

__all__ = [
    "CheckImage",
    "CheckImaged",
    "CheckLabel",
    "CheckLabeld",
    "ClipAndStandardize",
    "ClipAndStandardized",
    "CropNonzero",
    "CropNonzerod",
    "Deformation",
    "Elastic",
    "Flip",
    "GridResample",
    "GridSpacingd",
    "KeepComponents",
    "KeepComponentsd",
    "LargestClass",
    "LargestClassd",
    "MapLabels",
    "MapLabelsd",
    "RandDeform",
    "RandDeformBatchd",
    "RandDeformCropd",
    "RandDeformd",
    "RandElastic",
    "RandFlip",
    "RandRotate",
    "RandScale",
    "RandTranslate",
    "Rotate",
    "Scale",
    "Translate",
    "close_mask",
    "deform",
    "deformed_coordinates",
    "largest_components",
]
