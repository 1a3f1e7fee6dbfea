"""From an image file to a label on the same grid: steps before and after the network, sliding windows, file names."""

from custom_components.inference.bundle_domains import bundle_domain, bundle_domains
from custom_components.inference.chain import postprocessing, preprocessing
from custom_components.inference.ensemble import Ensemble
from custom_components.inference.files import check_names, check_output_dir, find_images, label_path, output_name
from custom_components.inference.segmenter import Segmentation, Segmenter, label_made_by
from custom_components.inference.windows import WindowInferer, distance_weights

__all__ = [
    "Ensemble",
    "Segmentation",
    "Segmenter",
    "WindowInferer",
    "bundle_domain",
    "bundle_domains",
    "check_names",
    "check_output_dir",
    "distance_weights",
    "find_images",
    "label_made_by",
    "label_path",
    "output_name",
    "postprocessing",
    "preprocessing",
]
