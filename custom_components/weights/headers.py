"""What the files of a trunk and its adapters say of themselves; enough to build the network without running any code."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from custom_components.domain import Domain
from custom_components.domain_parts import LARGEST_PATCH, Kernels, Strides
from custom_components.weights.files import WeightsError

__all__ = [
    "AdapterHeader",
    "AdapterNotes",
    "DomainShape",
    "NetworkPlan",
    "TrunkHeader",
    "check_agrees",
    "differing_plans",
    "parse_header",
    "with_notes",
]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NetworkPlan(_Header):
    """`U2Net`'s arguments apart from the domains."""

    channels: tuple[int, ...]
    adapter: str
    downsampling: str
    deep_supervision: str


class DomainShape(_Header):
    """`Domain.network`, within the limits of a `Domain`: no tensor shows a stride that nothing can be divided by.

    ``low_rank`` is the adapter's own: the description of a domain does not know how its adapter was trained.
    """

    in_channels: int
    out_channels: int
    strides: Strides
    kernel_sizes: Kernels
    low_rank: Annotated[int, Field(ge=0, le=512)] = 0

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        if not self.low_rank:
            del values["low_rank"]  # a header without it says what it always did, and older versions read it
        return values

    @model_validator(mode="after")
    def _possible(self) -> DomainShape:
        if max(math.prod(stride[axis] for stride in self.strides) for axis in range(3)) > LARGEST_PATCH:
            raise ValueError(f"strides: their product is above {LARGEST_PATCH} voxels, which no patch has")
        return self


class TrunkHeader(_Header):
    """Header of ``trunk.safetensors``; ``sha256`` is the `fingerprint` of its tensors."""

    format: Literal[1] = 1
    kind: Literal["trunk"] = "trunk"
    network: NetworkPlan
    sha256: str


class AdapterHeader(_Header):
    """Header of ``<domain>.safetensors``.

    Attributes:
        domain: the domain's name; its tensors' keys begin with ``domains.<domain>.``.
        shape: what the network needs to know of it.
        network: the plan of the trunk it was trained with.
        trunk: fingerprint of that trunk's tensors.
        sha256: fingerprint of the adapter's own tensors.
        description: the `Domain` as JSON, so that the file alone is enough to segment. This and the following are for
            people and tools: None where nothing is said, and no output depends on them.
        training: how it was made (steps, cases, date, command, commit, …).
        metrics: how good it is, and on what.
        licence: of the adapter, as its data's licence demands it.
    """

    format: Literal[1] = 1
    kind: Literal["adapter"] = "adapter"
    domain: str
    shape: DomainShape
    network: NetworkPlan
    trunk: str
    sha256: str
    # A plain mapping: a description that another version wrote must not keep the weights from loading.
    description: dict[str, Any] | None = None
    training: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    licence: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The header as JSON values; equal headers give equal ones. What is not said is left out."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}

    def domain_description(self, source: str | Path) -> Domain | None:
        """The description as a `Domain`, None where there is none.

        Args:
            source: the file's name for the message.

        Raises:
            WeightsError: it is another domain's, or has another shape than the adapter.
            DomainError: it is inconsistent.
        """
        if self.description is None:
            return None
        domain = Domain.from_dict(self.description, f"{source}: description in the header")
        check_agrees(Path(source), self, domain)
        return domain


class AdapterNotes(_Header):
    """What may be said of an adapter beside its weights; see `AdapterHeader`."""

    description: Domain | None = None
    training: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    licence: str | None = None


def parse_header(kind: type[Any], values: dict[str, Any] | None, path: str | Path) -> Any:
    """The header of a file as ``kind``, which is `TrunkHeader` or `AdapterHeader`.

    Raises:
        WeightsError: there is none, or it is another kind's, another version's, or damaged.
    """
    if values is None:
        raise WeightsError(f"{path}: has no header of this project; give a file that save_bundle_weights wrote")
    if values.get("format") != 1:
        raise WeightsError(f"{path}: has format {values.get('format')!r}, this version reads format 1; update the package")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        field = ".".join(str(p) for p in item["loc"])
        raise WeightsError(
            f"{path}: is no {kind.model_fields['kind'].default} file; header field {field}: {item['msg']}"
        ) from None


def with_notes(header: AdapterHeader, notes: AdapterNotes | Mapping[str, Any], source: str | Path) -> AdapterHeader:
    """The header with the fields of ``notes`` that are not None.

    Raises:
        WeightsError: a field is unknown or no JSON (NaN becomes null), or the description is another domain's.
    """
    try:
        checked = AdapterNotes.model_validate(notes)
        said = {key: value for key, value in checked.model_dump(mode="json").items() if value is not None}
        json.dumps(said, allow_nan=False)
    except ValidationError as error:
        item = error.errors(include_url=False)[0]
        raise WeightsError(f"{source}: notes, {'.'.join(map(str, item['loc']))}: {item['msg']}") from None
    except ValueError as error:  # pydantic's error for values that JSON does not know is one, too
        raise WeightsError(f"{source}: notes are no JSON values ({error})") from None
    noted = header.model_copy(update=said)
    noted.domain_description(source)
    return noted


def check_agrees(path: Path, header: AdapterHeader, domain: Domain) -> None:
    """Ask that an adapter be the one of this description.

    Raises:
        WeightsError: it is another domain's, or its shape is another.
    """
    if header.domain != domain.name:
        raise WeightsError(f"{path}: is the adapter of '{header.domain}', not of '{domain.name}'")
    own = header.shape.model_dump(mode="json")
    for field, wanted in domain.network.items():
        if own[field] != wanted:
            raise WeightsError(
                f"{path}: {field} is {own[field]}, but domain.json says {wanted}; use the domain.json of its bundle"
            )


def differing_plans(adapter: NetworkPlan, trunk: NetworkPlan) -> str:
    """What tells two architectures apart, in brackets; empty where nothing does."""
    own, other = adapter.model_dump(mode="json"), trunk.model_dump(mode="json")
    different = [f"{field} {own[field]} against {other[field]}" for field in own if own[field] != other[field]]
    return f" (another architecture: {', '.join(different)})" if different else ""
