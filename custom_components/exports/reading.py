"""Exported files, run as the network they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.exports.description import DESCRIPTION, DOMAIN, ExportDescription, read_description

__all__ = ["ExportedNetwork", "load_exported", "onnx_packages"]


class ExportedNetwork(nn.Module):
    """An exported file as the network of a `custom_components.inference.Segmenter`.

    Attributes:
        domain: the task, as the file describes it.
        description: what else it says.
    """

    def __init__(self, domain: Domain, description: ExportDescription) -> None:
        super().__init__()
        self.domain, self.description = domain, description


class TorchScriptNetwork(ExportedNetwork):
    """(N, C, Z, Y, X) to logits by TorchScript, on the device it is moved to."""

    def __init__(self, domain: Domain, description: ExportDescription, module: Any) -> None:
        super().__init__(domain, description)
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits


class OnnxNetwork(ExportedNetwork):
    """(N, C, Z, Y, X) to logits by onnxruntime on the CPU; the result is on the input's device."""

    def __init__(self, domain: Domain, description: ExportDescription, session: Any) -> None:
        super().__init__(domain, description)
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        (logits,) = self.session.run([self.description.output], {self.description.input: x.detach().cpu().numpy()})
        return torch.from_numpy(logits).to(x.device)


def load_exported(path: str | Path, file_format: str | None = None) -> ExportedNetwork:
    """Read a file that `export_network` wrote. TorchScript is a program: load files of people you trust.

    Args:
        path: ``.ts``, ``.pt`` or ``.onnx``.
        file_format: ``torchscript`` or ``onnx``; None goes by the suffix.

    Raises:
        InputError: it is absent, damaged, another kind of file, or does not describe itself.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; give one that scripts/export_domain.py wrote")
    onnx = path.suffix.lower() == ".onnx" if file_format is None else file_format == "onnx"
    return _onnx(path) if onnx else _torchscript(path)


def _torchscript(path: Path) -> ExportedNetwork:
    entries: dict[str, Any] = {DOMAIN: "", DESCRIPTION: ""}
    try:
        module = torch.jit.load(path, map_location="cpu", _extra_files=entries)
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"{path}: is damaged or no TorchScript file ({_first_line(error)}); export it again") from None
    return TorchScriptNetwork(*read_description(path, entries), module)


def _onnx(path: Path) -> ExportedNetwork:
    _, onnxruntime = onnx_packages()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common class that it names
        raise InputError(f"{path}: is damaged or no ONNX file ({_first_line(error)}); export it again") from None
    return OnnxNetwork(*read_description(path, session.get_modelmeta().custom_metadata_map), session)


def onnx_packages() -> tuple[Any, Any]:
    """The modules onnx and onnxruntime.

    Raises:
        InputError: they are not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f"ONNX: the package {error.name} is missing; pip install onnx onnxruntime onnxscript") from None
    return onnx, onnxruntime


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:200]
