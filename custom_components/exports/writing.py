"""A network of one domain as a TorchScript or ONNX file: reloaded and checked before it has its name."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from custom_components.atomic import atomic_path
from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.exports.checking import Agreement, check_agreement
from custom_components.exports.description import DESCRIPTION, DOMAIN, INPUT, OUTPUT, ExportDescription, describe_export
from custom_components.exports.reading import load_exported, onnx_packages
from custom_components.networks import U2Net
from custom_components.networks.path import divisors

__all__ = ["SUFFIXES", "export_network"]

SUFFIXES = {".ts": "torchscript", ".pt": "torchscript", ".onnx": "onnx"}
TOLERANCE = 1e-3


def export_network(
    network: U2Net, domain: Domain, path: str | Path, file_format: str | None = None, tolerance: float = TOLERANCE
) -> list[Agreement]:
    """Write one domain's network so that it runs without this package.

    The file takes any size that the strides divide and any batch. It computes the plain torch form of the network, in
    float32, and carries the entries ``domain.json`` and ``export.json`` (`ExportDescription`).

    Args:
        network: on the CPU.
        domain: of the network.
        path: the file; it appears whole and checked, or not at all.
        file_format: ``torchscript`` or ``onnx``; None goes by the suffix.
        tolerance: see `check_agreement`.

    Returns:
        What the check found.

    Raises:
        InputError: the suffix or the format is unknown, a package is missing, the file computes something else than the
            network, or it cannot be written.
    """
    path = Path(path)
    chosen = file_format or SUFFIXES.get(path.suffix.lower())
    if chosen not in WRITERS:
        raise InputError(f"{path}: export as {' or '.join(WRITERS)}; name the file .ts or .onnx, or say which (--format)")
    selected = network.select(domain.name).eval()
    content = WRITERS[chosen](selected, domain, describe_export(network, domain, chosen))
    with atomic_path(path) as temporary:
        try:
            temporary.write_bytes(content)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror}); free some space or choose another folder") from None
        exported = load_exported(temporary, chosen)
        return check_agreement(selected, exported, domain, tolerance, str(path))


def _torchscript(network: nn.Module, domain: Domain, description: ExportDescription) -> bytes:
    entries = _entries(domain, description)
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer, _extra_files=entries)
    return _without_debug_records(buffer.getvalue())


def _onnx(network: nn.Module, domain: Domain, description: ExportDescription) -> bytes:
    onnx, _ = onnx_packages()
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it, and says so less clearly)
    except ImportError:
        raise InputError("export as ONNX: the package onnxscript is missing; pip install onnx onnxruntime onnxscript") from None
    from torch.export import Dim

    factors = divisors(domain.strides)
    axes = {0: Dim("n", min=1, max=4096)}
    for axis, (letter, factor) in enumerate(zip("zyx", factors, strict=True), 2):
        steps = Dim(letter, min=1, max=4096)
        axes[axis] = factor * steps if factor > 1 else steps
    # Sizes that differ from each other and from 1, which the exporter would take for a constant.
    example = torch.zeros(2, domain.in_channels, *(f * n for f, n in zip(factors, (2, 3, 4), strict=True)))
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it names torchvision, of which nothing is used
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes={"x": axes},
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
    model = program.model_proto
    _forget_where_it_was_made(model)
    onnx.helper.set_model_props(model, _entries(domain, description))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


WRITERS: dict[str, Callable[[nn.Module, Domain, ExportDescription], bytes]] = {"torchscript": _torchscript, "onnx": _onnx}


def _entries(domain: Domain, description: ExportDescription) -> dict[str, str]:
    return {DOMAIN: domain.to_json(), DESCRIPTION: description.model_dump_json(indent=4)}


def _without_debug_records(archive: bytes) -> bytes:
    """TorchScript without the records that name every source file by its path on the machine of the export."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(archive))
    kept = [name for name in reader.get_all_records() if not name.endswith(".debug_pkl") and name not in WRITTEN_ANYWAY]
    buffer = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(buffer)
    for name in kept:
        record = reader.get_record(name)
        writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return buffer.getvalue()


WRITTEN_ANYWAY = ("version", "byteorder", ".data/serialization_id", ".format_version", ".storage_alignment")


def _forget_where_it_was_made(model: Any) -> None:
    """Take out stack traces and the like, which name source files by their path on the machine of the export."""
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer, model.graph, model):
        value.ClearField("metadata_props")
        value.ClearField("doc_string")
