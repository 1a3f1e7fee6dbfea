"""Headers of MetaImage and NRRD files, judged before a line of them reaches the C++ code that reads the voxels.

That code trusts what it reads: a wrong number of dimensions writes past its memory, a wrong size allocates whatever it says,
and a header may name any file of the machine as the one with the voxels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from custom_components.data.sizes import check_declared_size
from custom_components.errors import InputError

__all__ = ["MetaHeader", "check_meta_image", "check_nrrd"]

LONGEST_HEADER = 2**16  # bytes
LONGEST_LINE = 4096
LARGEST_NUMBER = 1e12  # mm, bytes, parts: with 1e308 in a direction, ITK looks for its inverse for ever
DIMENSIONS = range(2, 6)
NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]{1,3})?")

MetaHeader = dict[str, str]

META_TYPES = {
    **{f"MET_{sign}{name}": size for name, size in (("CHAR", 1), ("SHORT", 2), ("INT", 4), ("LONG", 8)) for sign in ("", "U")},
    **{"MET_LONG_LONG": 8, "MET_ULONG_LONG": 8, "MET_FLOAT": 4, "MET_DOUBLE": 8},
}
# Vectors of the header: how many numbers of how many dimensions.
META_VECTORS: Mapping[str, Callable[[int], int]] = {
    **dict.fromkeys(
        ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), lambda n: n
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), lambda n: n * n),
}
META_NUMBERS = ("ElementNumberOfChannels", "CompressedDataSize")

NRRD_TYPES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int"), 8),
    **dict.fromkeys(("int64", "int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
    "double": 8,
}
NRRD_ENCODINGS = {"raw": False, "gzip": True, "gz": True}
PER_AXIS = ("sizes", "spacings", "axis mins", "axismins", "axis maxs", "axismaxs", "thicknesses")


def check_meta_image(path: Path) -> MetaHeader:
    """Judge the header of a ``.mha`` or ``.mhd``.

    Returns:
        Its fields.

    Raises:
        InputError: it is malformed, holds other numbers than its dimensions ask for, or voxels that are not there.
    """
    text, offset = _head(path, re.compile(rb"^ElementDataFile[ \t]*=[^\n]*\n?", re.MULTILINE))
    fields: MetaHeader = {}
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not key or key in fields:
            raise InputError(f"{path}: the line {line[:60]!r} of its header is no 'Key = value', or comes twice; export it again")
        fields[key] = value
    dimensions = _whole(path, fields, "NDims")
    if dimensions not in DIMENSIONS:
        raise InputError(f"{path}: has {dimensions} dimensions (NDims); give a 3-D volume")
    for key, count in META_VECTORS.items():
        if key in fields and len(numbers := _numbers(path, key, fields[key].split())) != count(dimensions):
            raise InputError(f"{path}: {key} has {len(numbers)} numbers, {count(dimensions)} are needed; export it again")
    for key in META_NUMBERS:
        if key in fields:
            _numbers(path, key, [fields[key]])
    if fields.get("ObjectType", "Image") != "Image" or fields.get("ElementType") not in META_TYPES:
        raise InputError(f"{path}: is no image of numbers (ObjectType, ElementType); export it again")
    for key in ("BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "CompressedData"):
        if fields.get(key, "False").lower() not in ("true", "false"):
            raise InputError(f"{path}: {key} is neither True nor False; export it again")
    if fields.get("BinaryData", "False").lower() != "true" or "HeaderSize" in fields:
        raise InputError(
            f"{path}: its voxels are text, or follow a header of their own (BinaryData, HeaderSize); export it as .nii.gz"
        )
    sizes = [_positive(path, "DimSize", word) for word in fields.get("DimSize", "").split()]
    channels = _whole(path, fields, "ElementNumberOfChannels", "1")
    if len(sizes) != dimensions or not 1 <= channels <= 1024:
        raise InputError(f"{path}: DimSize or ElementNumberOfChannels is missing or impossible; export it again")
    declared = math.prod(sizes) * channels * META_TYPES[fields["ElementType"]]
    packed = fields.get("CompressedData", "False").lower() == "true"
    _check_data(path, fields["ElementDataFile"], offset, declared, packed, "LOCAL")
    return fields


def check_nrrd(path: Path) -> None:
    """Judge the header of a ``.nrrd`` or ``.nhdr``.

    Raises:
        InputError: as `check_meta_image`.
    """
    text, offset = _head(path, re.compile(rb"\r?\n\r?\n"))
    lines = text.splitlines()
    if not lines or not re.fullmatch(r"NRRD000[1-5]", lines[0]):
        raise InputError(f"{path}: is not what its name says (it does not begin with NRRD0001 to NRRD0005); check the file")
    fields: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#") or ":=" in line or not line:
            continue  # remarks, and pairs that only people read
        key, colon, value = line.partition(": ")
        if not colon or key.lower() in fields:
            raise InputError(f"{path}: the line {line[:60]!r} of its header is no 'key: value', or comes twice; export it again")
        fields[key.lower()] = value.strip()
    dimensions = _whole(path, fields, "dimension")
    if dimensions not in DIMENSIONS:
        raise InputError(f"{path}: has {dimensions} dimensions; give a 3-D volume")
    if fields.get("type") not in NRRD_TYPES or fields.get("encoding", "").lower() not in NRRD_ENCODINGS:
        raise InputError(f"{path}: its type or encoding is none of those read here (numbers; raw or gzip); export it again")
    for key in PER_AXIS:
        if key in fields and len(fields[key].split()) != dimensions:
            raise InputError(f"{path}: '{key}' has {len(fields[key].split())} entries, {dimensions} are needed; export it again")
    _check_space(path, fields, dimensions)
    for key in ("line skip", "lineskip", "byte skip", "byteskip"):
        if _whole(path, fields, key, "0") != 0:
            raise InputError(f"{path}: asks to skip a part of the data ('{key}'); export it again")
    sizes = [_positive(path, "sizes", word) for word in fields.get("sizes", "").split()]
    if len(sizes) != dimensions:
        raise InputError(f"{path}: has no 'sizes'; export it again")
    where = fields.get("data file", fields.get("datafile", ""))
    declared = math.prod(sizes) * NRRD_TYPES[fields["type"]]
    _check_data(path, where, offset, declared, NRRD_ENCODINGS[fields["encoding"].lower()], "")


def _check_space(path: Path, fields: Mapping[str, str], dimensions: int) -> None:
    """Vectors as NRRD writes them: ``(1,0,0)``, ``none`` for an axis that is not in space."""
    world = 0
    for key, count in (("space directions", dimensions), ("space origin", 1), ("measurement frame", None)):
        if key not in fields:
            continue
        vectors = re.findall(r"none|\([^()]*\)", fields[key])
        if re.sub(r"none|\([^()]*\)", "", fields[key]).strip() or (count is not None and len(vectors) != count):
            raise InputError(f"{path}: '{key}' is malformed, or not of {dimensions} axes; export it again")
        lengths = {len(_numbers(path, key, vector.strip("()").split(","))) for vector in vectors if vector != "none"}
        if len(lengths | ({world} if world else set())) != 1 or not lengths <= {2, 3}:
            raise InputError(f"{path}: the vectors of '{key}' are not of two or three numbers each; export it again")
        world = lengths.pop()


def _head(path: Path, end: re.Pattern[bytes]) -> tuple[str, int]:
    """The header as text, and where the voxels begin."""
    with open(path, "rb") as file:
        start = file.read(LONGEST_HEADER)
    found = end.search(start)
    if found is None and path.suffix.lower() != ".nhdr":
        raise InputError(f"{path}: is not what its name says: its header has no end; copy or download it again")
    offset = found.end() if found is not None else len(start)
    try:
        text = start[:offset].decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(f"{path}: its header is no text; copy or download it again") from None
    if any(len(line) > LONGEST_LINE for line in text.splitlines()) or any(ord(c) < 32 and c not in "\t\r\n" for c in text):
        raise InputError(f"{path}: its header has a line that is no line of text; export it again")
    return text, offset


def _check_data(path: Path, where: str, offset: int, declared: int, packed: bool, local: str) -> None:
    """That the voxels are in the file itself, or in one beside it, and as many as are declared."""
    if where == local:
        check_declared_size(path, declared, path.stat().st_size - offset, packed)
        return
    beside = path.parent / where
    if not where or Path(where).name != where or where.upper() in ("LIST", "LOCAL") or "%" in where:
        raise InputError(f"{path}: names {where[:80]!r} as the file of its voxels; they must be in it, or in one file beside it")
    if not beside.is_file():
        raise InputError(f"{path}: its voxels are in {beside}, which is no file; copy both")
    check_declared_size(path, declared, beside.stat().st_size, packed)


def _numbers(path: Path, key: str, words: list[str]) -> list[float]:
    if not all(NUMBER.fullmatch(word.strip()) for word in words):
        raise InputError(f"{path}: its {key} is not numbers; export it again")
    numbers = [float(word) for word in words]
    if any(abs(number) > LARGEST_NUMBER for number in numbers):
        raise InputError(f"{path}: its {key} holds {max(numbers, key=abs):.2g}, which is no place in space; export it again")
    return numbers


def _whole(path: Path, fields: Mapping[str, str], key: str, default: str = "") -> int:
    text = fields.get(key, default)
    if not re.fullmatch(r"-?[0-9]{1,9}", text):
        raise InputError(f"{path}: its {key} is {text[:40]!r}, which is no whole number; export it again")
    return int(text)


def _positive(path: Path, key: str, word: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", word) or int(word) == 0:
        raise InputError(f"{path}: its {key} holds {word[:40]!r}, which is no number of voxels; export it again")
    return int(word)
