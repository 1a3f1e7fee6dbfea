"""One domain's network as one file for other programs: TorchScript or ONNX, checked, and described within itself."""

from custom_components.exports.checking import Agreement, check_agreement
from custom_components.exports.description import ExportDescription, describe_export
from custom_components.exports.reading import ExportedNetwork, load_exported
from custom_components.exports.writing import SUFFIXES, export_network

__all__ = [
    "SUFFIXES",
    "Agreement",
    "ExportDescription",
    "ExportedNetwork",
    "check_agreement",
    "describe_export",
    "export_network",
    "load_exported",
]
