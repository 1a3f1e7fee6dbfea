"""Reading and writing of tensor files: no code is ever unpickled, nothing half-written is ever left."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as encode_safetensors

from custom_components.atomic import atomic_path
from custom_components.errors import InputError
from custom_components.strict_json import parse_json

__all__ = [
    "WeightsError",
    "read_header",
    "read_pickled",
    "read_safetensors",
    "read_tensors",
    "write_atomically",
    "write_tensors",
]

HEADER_KEY = "u2net"
"""The one metadata entry of our safetensors files; its value is JSON. One, because the format does not order entries."""


class WeightsError(InputError):
    """A weights file is unreadable, unsafe, or does not fit the network it is meant for."""


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a plain state dict onto the CPU.

    Args:
        path: ``.safetensors``, or ``.pt``/``.pth`` written by ``torch.save(network.state_dict(), path)``.

    Raises:
        WeightsError: the file is absent, damaged, of another kind, or holds anything but tensors by name.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        return read_safetensors(path)[0]
    values = read_pickled(path)
    if not isinstance(values, Mapping) or not values or not all(isinstance(v, torch.Tensor) for v in values.values()):
        found = f"entries {_some(map(str, values))}" if isinstance(values, Mapping) else f"a {type(values).__name__}"
        raise WeightsError(
            f"{path}: holds {found}, not a plain state dict (parameter name to tensor); "
            "save the network's part of it alone with torch.save(network.state_dict(), path)"
        )
    return {str(key): value for key, value in values.items()}


def read_pickled(path: str | Path) -> Any:
    """``torch.load`` that admits tensors and plain containers only (``weights_only=True``), with errors for people.

    Raises:
        WeightsError: the file is absent, no ``.pt``/``.pth``, damaged, or asks for code to be run.
    """
    path = Path(path)
    if path.suffix not in (".pt", ".pth"):
        raise WeightsError(f"{path}: weights are .safetensors, .pt or .pth files, not '{path.suffix}'")
    _must_be_file(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "global" in str(error).lower() or "Weights only load failed" in str(error):
            raise WeightsError(
                f"{path}: refused, for it is damaged or holds Python objects or code beside tensors ({_first_line(error)}); "
                "ask its maker for a plain state dict or a .safetensors file"
            ) from None
        raise WeightsError(f"{path}: is damaged or no weights file ({_first_line(error)})") from None
    except Exception as error:  # a damaged pickle raises whatever its instructions come to
        raise WeightsError(f"{path}: is damaged or no weights file ({_first_line(error)})") from None


def read_safetensors(path: str | Path) -> tuple[dict[str, torch.Tensor], dict[str, Any] | None]:
    """Read tensors and our JSON header (None where the file has none).

    Raises:
        WeightsError: the file is absent or damaged, or its header is no JSON object.
    """
    path = Path(path)
    _must_be_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            text = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({_first_line(error)})") from None
    return tensors, _parse_header(path, text)


def read_header(path: str | Path) -> dict[str, Any] | None:
    """Our JSON header alone, without the tensors (None where the file has none).

    Raises:
        WeightsError: as `read_safetensors`.
    """
    path = Path(path)
    _must_be_file(path)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
    except (SafetensorError, OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: is damaged or no safetensors file ({_first_line(error)})") from None
    return _parse_header(path, text)


def _parse_header(path: Path, text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        header = parse_json(text)
    except ValueError as error:
        raise WeightsError(f"{path}: its header is not valid JSON ({error}); the file was changed by something else") from None
    if not isinstance(header, dict):
        raise WeightsError(f"{path}: its header is no JSON object; the file was changed by something else")
    return header


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], header: Mapping[str, Any] | None = None) -> None:
    """Write tensors so that equal tensors give equal bytes; the file appears whole or not at all.

    Args:
        path: ``.safetensors``, ``.pt`` or ``.pth``.
        tensors: parameter name to tensor, of any device and layout.
        header: JSON values for a ``.safetensors`` file.

    Raises:
        WeightsError: the suffix is another, or the folder cannot be written.
    """
    path = Path(path)
    # Copies: safetensors refuses shared storage, and a view would drag its whole storage into a .pt file.
    plain = {key: tensors[key].detach().to("cpu", memory_format=torch.contiguous_format, copy=True) for key in tensors}
    if path.suffix == ".safetensors":
        metadata = None if header is None else {HEADER_KEY: json.dumps(header, sort_keys=True)}
        write_atomically(path, encode_safetensors(plain, metadata))
    elif path.suffix in (".pt", ".pth"):
        # By way of memory: torch.save names the archive's folder after the file, which here is a temporary one.
        buffer = io.BytesIO()
        torch.save(plain, buffer)
        write_atomically(path, buffer.getvalue())
    else:
        raise WeightsError(f"{path}: weights are written as .safetensors, .pt or .pth, not '{path.suffix}'")


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` under a temporary name beside ``path``, then rename; missing folders are made.

    Raises:
        WeightsError: the folder cannot be made or written.
    """
    path = Path(path)
    try:
        with atomic_path(path) as temporary, open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a machine that stops must not keep the name of an empty file
    except InputError as error:
        raise WeightsError(str(error)) from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be written ({error.strerror}); choose a folder you may write to") from None


def _must_be_file(path: Path) -> None:
    if not path.is_file():
        raise WeightsError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}; give a weights file")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch explains at length before it names the class that was refused; that name is what helps.
    named = next((line for line in lines if "GLOBAL" in line or "Unsupported" in line), None)
    return (named or (lines[0] if lines else type(error).__name__))[:300]


def _some(names: Any, count: int = 5) -> str:
    names = list(names)
    return ", ".join(names[:count]) + (f" and {len(names) - count} more" if len(names) > count else "")
