"""Weights: files that load strictly, adapters bound to their trunk, import of original checkpoints."""

from custom_components.weights.fingerprint import fingerprint

__all__ = ["fingerprint"]
