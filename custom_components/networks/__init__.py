"""The network: a shared trunk, and one adapter per domain."""

from custom_components.networks.fingerprint import fingerprint
from custom_components.networks.u2net import U2Net

__all__ = ["U2Net", "fingerprint"]
