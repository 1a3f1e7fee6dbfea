"""What an exported file says of itself: enough to prepare an image for it, and to say which weights it holds."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net, fingerprint
from custom_components.networks.path import divisors
from custom_components.strict_json import parse_json

__all__ = ["DESCRIPTION", "DOMAIN", "INPUT", "OUTPUT", "ExportDescription", "describe_export", "read_description"]

# Names of TorchScript's extra files, and keys of ONNX's metadata_props.
DOMAIN, DESCRIPTION = "domain.json", "export.json"
INPUT, OUTPUT = "image", "logits"
PACKAGES = {"torchscript": ("u2net-monai", "torch"), "onnx": ("u2net-monai", "torch", "onnx")}


class ExportDescription(BaseModel):
    """The entry ``export.json``.

    Attributes:
        domain: the domain's name; its whole description is the entry ``domain.json``.
        input, output: names of the tensors, (N, C, Z, Y, X) and (N, K, Z, Y, X), float32.
        divisible_by: what Z, Y and X must be divisible by.
        trunk, adapter: `custom_components.networks.fingerprint` of the weights, as ``trunk.safetensors`` and
            ``<domain>.safetensors`` name them.
        versions: of the packages that wrote the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["u2net export"] = "u2net export"
    domain: str
    input: str = INPUT
    output: str = OUTPUT
    divisible_by: tuple[int, int, int]
    trunk: str
    adapter: str
    versions: dict[str, str | None]


def describe_export(network: U2Net, domain: Domain, file_format: str) -> ExportDescription:
    """What an export of ``domain`` from ``network`` says; ``file_format`` is ``torchscript`` or ``onnx``."""
    z, y, x = divisors(domain.strides)
    return ExportDescription(
        domain=domain.name,
        divisible_by=(z, y, x),
        trunk=network.trunk_fingerprint(),
        adapter=fingerprint(network.adapter_state(domain.name)),
        versions={package: _version(package) for package in PACKAGES[file_format]},
    )


def read_description(path: Path, entries: dict[str, Any]) -> tuple[Domain, ExportDescription]:
    """The two entries of a file.

    Args:
        path: the file's name for messages.
        entries: `DOMAIN` and `DESCRIPTION` to their text.

    Raises:
        InputError: one is missing or malformed, or they contradict each other.
    """
    missing = [name for name in (DOMAIN, DESCRIPTION) if not entries.get(name)]
    if missing:
        raise InputError(f"{path}: has no entry {missing[0]}; give a file that scripts/export_domain.py wrote")
    try:
        domain = Domain.from_dict(parse_json(entries[DOMAIN]), f"{path}: {DOMAIN}")
        description = ExportDescription.model_validate(parse_json(entries[DESCRIPTION]))
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise InputError(f"{path}: {DESCRIPTION}, {'.'.join(map(str, item['loc']))}: {item['msg']}; export it again") from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: its description is not valid JSON ({error}); export it again") from None
    if description.domain != domain.name or description.divisible_by != tuple(divisors(domain.strides)):
        raise InputError(f"{path}: {DOMAIN} and {DESCRIPTION} contradict each other; export it again")
    return domain, description


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # the project can also be run from its folder
        return None
