"""Bundles from one template: what a person wrote about a domain goes in, a complete MONAI bundle comes out."""

from custom_components.bundles.facts import Data, Facts, Original
from custom_components.bundles.rendering import generated_files
from custom_components.bundles.universal import refresh_universal, universal_configs, universal_drift, universal_files
from custom_components.bundles.writing import drift, refresh_bundle, write_bundle

__all__ = [
    "Data",
    "Facts",
    "Original",
    "drift",
    "generated_files",
    "refresh_bundle",
    "refresh_universal",
    "universal_configs",
    "universal_drift",
    "universal_files",
    "write_bundle",
]
