"""Images from disk, checked; Decathlon data lists and folds; NIfTI files written whole."""

from custom_components.data.agreement import check_agreement, check_foreground, training_cases
from custom_components.data.checking import check_affine, check_image, check_same_grid, check_source, spacing_of
from custom_components.data.datalist import Dataset, datalist, five_folds, fold_names, read_dataset
from custom_components.data.reading import ImagePath, image_name, load_volume, read_image, read_label
from custom_components.data.writing import AtomicNiftiWriter

__all__ = [
    "AtomicNiftiWriter",
    "Dataset",
    "ImagePath",
    "check_affine",
    "check_agreement",
    "check_foreground",
    "check_image",
    "check_same_grid",
    "check_source",
    "datalist",
    "five_folds",
    "fold_names",
    "image_name",
    "load_volume",
    "read_dataset",
    "read_image",
    "read_label",
    "spacing_of",
    "training_cases",
]
