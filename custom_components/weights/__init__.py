"""Weights: files that load strictly, adapters bound to their trunk, import of original checkpoints."""

from custom_components.weights.adapters import load_adapter, load_network, load_trunk, save_bundle_weights
from custom_components.weights.files import WeightsError, read_tensors
from custom_components.weights.headers import AdapterNotes
from custom_components.weights.on_trunk import network_on_trunk
from custom_components.weights.original import ImportedNetwork, convert_original, import_original
from custom_components.weights.states import check_state, load_state, save_state

__all__ = [
    "AdapterNotes",
    "ImportedNetwork",
    "WeightsError",
    "check_state",
    "convert_original",
    "import_original",
    "load_adapter",
    "load_network",
    "load_state",
    "load_trunk",
    "network_on_trunk",
    "read_tensors",
    "save_bundle_weights",
    "save_state",
]
