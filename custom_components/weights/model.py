"""A bundle's ``model.pt``: load it, or say what to do where there is none."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from custom_components.weights.files import WeightsError
from custom_components.weights.states import load_state

__all__ = ["check_trained", "load_model"]

MODEL_FILE = "model.pt"


def load_model(network: nn.Module, folder: str | Path) -> nn.Module:
    """Load a bundle's plain state dict, strictly.

    Args:
        network: stays on its device; unchanged if the weights do not fit.
        folder: with ``model.pt``: a bundle's ``models``, or where training wrote (``--ckpt_dir``).

    Returns:
        The network.

    Raises:
        WeightsError: there are no weights, or they are unreadable, unsafe or do not fit.
    """
    check_trained(folder, MODEL_FILE)
    return load_state(network, Path(folder) / MODEL_FILE)


def check_trained(folder: str | Path, name: str) -> None:
    """Ask that a weights file be there.

    Raises:
        WeightsError: it is not; the message says how to come by one.
    """
    path = Path(folder) / name
    if not path.is_file():
        raise WeightsError(
            f"{path}: no such file, so there are no trained weights to use; train them with the bundle's configs/train.json, "
            "or name the folder where a training left them (--ckpt_dir for configurations, models/ in a bundle for scripts), "
            "or run on a universal trunk and an adapter (configs/from_universal.json)"
        )
