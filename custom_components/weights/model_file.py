"""A reader of ``model.pt`` that unpickles nothing: it reads the pickle's opcodes as data.

``torch.save(state_dict, path)`` writes a zip with one pickle, which names tensors and where their numbers lie, and one file per
storage (torch/serialization.py, torch/_utils.py: ``_rebuild_tensor_v2``). A plain state dict needs a score of opcodes and a
handful of names; these are followed here step by step, no name is looked up and nothing is called. Anything else is refused,
so whatever this reads is a plain state dict, and ``torch.load(path, weights_only=True)`` gives the same tensors.
"""

from __future__ import annotations

import math
import pickletools
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from custom_components.archives.archive import UNREADABLE, Archive, read_archive
from custom_components.errors import InputError
from custom_components.weights.files import WeightsError

__all__ = ["read_model_file"]

MAX_PICKLE = 64 * 2**20
MAX_SHARED = 16
"""Bytes of all tensors to those of the file: tensors that share their numbers are copied."""
TYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
PLACES = r"cpu|(cuda|xpu|mps|hpu)(:\d{1,3})?"
"""Where the tensors lay that were saved; all are read into memory."""
REBUILD = "torch._utils _rebuild_tensor_v2"
ORDERED = "collections OrderedDict"
NAMES = {REBUILD, ORDERED, *(f"torch {name}" for name in TYPES)}

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
PUT, GET = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Refused(Exception):
    """The pickle holds something that a plain state dict does not."""


class _Mark:
    """What MARK puts onto the stack."""


@dataclass(frozen=True)
class _Name:
    """A name that the pickle mentions; it is never looked up."""

    text: str


@dataclass(frozen=True)
class _Storage:
    """Numbers in a file of the zip."""

    kind: str
    file: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor as the pickle describes it."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_model_file(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a plain state dict without unpickling.

    Args:
        path: ``model.pt`` as ``torch.save`` of torch 1.6 or newer writes it.

    Returns:
        Parameter name to tensor, contiguous, on the CPU.

    Raises:
        InputError: the file is absent, damaged, no such zip, or holds anything but tensors by name.
    """
    path = Path(path)
    archive = read_archive(path)
    try:
        with zipfile.ZipFile(path) as file:
            if "data.pkl" not in archive.files or archive.files["data.pkl"].size > MAX_PICKLE:
                raise _Refused("it has no data.pkl, or one too large")
            if "byteorder" in archive.files and _read(file, archive, "byteorder") != b"little":
                raise _Refused("its numbers are not little-endian")
            described = _follow(_read(file, archive, "data.pkl"))
            total = sum(math.prod(tensor.size) * TYPES[tensor.storage.kind].itemsize for tensor in described.values())
            if total > path.stat().st_size * MAX_SHARED:
                raise _Refused("its tensors are far larger than its numbers")
            return {name: _tensor(file, archive, tensor) for name, tensor in described.items()}
    except _Refused as error:
        raise WeightsError(
            f"{path}: refused, for it is no plain state dict ({error}); ask its maker for one, or for .safetensors"
        ) from None
    except InputError:
        raise
    except (*UNREADABLE, TypeError, AttributeError, AssertionError, UnicodeError, RecursionError) as error:
        raise WeightsError(f"{path}: is damaged ({str(error)[:200] or type(error).__name__}); get it again") from None


def _follow(data: bytes) -> dict[str, _Tensor]:
    """The pickle's one value, as a plain mapping from name to tensor."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for opcode, argument, position in pickletools.genops(data):
        name = opcode.name
        if name == "STOP":
            if position is None or position + 1 != len(data) or len(stack) != 1:
                raise _Refused("its pickle goes on after its end")
            break
        _step(name, argument, stack, memo)
    result = stack[0]
    if not isinstance(result, dict) or not result:
        raise _Refused("it is no mapping, or an empty one")
    for key, value in result.items():
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            raise _Refused(f"the entry {str(key)[:60]!r} is no tensor")
    return result


def _step(name: str, argument: Any, stack: list[Any], memo: dict[int, Any]) -> None:
    if name == "PROTO":
        if argument != 2:
            raise _Refused(f"its pickle has protocol {argument}")
    elif name in CONSTANTS:
        stack.append(CONSTANTS[name])
    elif name in VALUES:
        stack.append(argument)
    elif name == "MARK":
        stack.append(_Mark)
    elif name in PUT:
        memo[argument] = stack[-1]
    elif name in GET:
        stack.append(memo[argument])
    elif name == "EMPTY_DICT":
        stack.append({})
    elif name == "EMPTY_TUPLE":
        stack.append(())
    elif name in TUPLES:
        stack[-TUPLES[name] :] = [_whole(tuple(stack[-TUPLES[name] :]), TUPLES[name])]
    elif name == "TUPLE":
        stack.append(tuple(_to_mark(stack)))
    elif name == "GLOBAL":
        if argument not in NAMES:
            raise _Refused(f"it asks for {str(argument)[:80].replace(' ', '.')}")
        stack.append(_Name(argument))
    elif name == "BINPERSID":
        stack.append(_storage(stack.pop()))
    elif name == "REDUCE":
        arguments = stack.pop()
        stack.append(_made(stack.pop(), arguments))
    elif name == "SETITEM":
        value, key = stack.pop(), stack.pop()
        _put(stack[-1], key, value)
    elif name == "SETITEMS":
        items = _to_mark(stack)
        if len(items) % 2:
            raise _Refused("a mapping lacks a value")
        for key, value in zip(items[::2], items[1::2], strict=True):
            _put(stack[-1], key, value)
    elif name == "BUILD":
        # torch's own note of module versions beside the tensors; it is dropped.
        state = stack.pop()
        if not isinstance(state, dict) or set(state) != {"_metadata"} or not isinstance(stack[-1], dict):
            raise _Refused("it sets attributes of an object")
    else:
        raise _Refused(f"its pickle has the opcode {name}")


def _to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _Mark:
        items.append(item)
    return items[::-1]


def _whole(items: tuple[Any, ...], count: int) -> tuple[Any, ...]:
    if len(items) != count or _Mark in items:
        raise _Refused("a tuple lacks a value")
    return items


def _put(mapping: Any, key: Any, value: Any) -> None:
    if not isinstance(mapping, dict) or not isinstance(key, str) or value is _Mark:
        raise _Refused("it sets items of an object, or under a key that is no text")
    if key in mapping:
        raise _Refused(f"it has {key[:60]!r} twice")
    mapping[key] = value


def _made(called: Any, arguments: Any) -> Any:
    """What torch would make of a call; an empty mapping or the description of a tensor."""
    if called == _Name(ORDERED) and arguments == ():
        return {}
    if called == _Name(REBUILD) and isinstance(arguments, tuple) and len(arguments) == 6:
        storage, offset, size, stride, _, hooks = arguments
        numbers = (offset, *size, *stride) if isinstance(size, tuple) and isinstance(stride, tuple) else ()
        if not isinstance(storage, _Storage) or not numbers or len(size) != len(stride) or hooks != {}:
            raise _Refused("a tensor is described otherwise than torch does")
        if not all(type(number) is int and 0 <= number < 2**50 for number in numbers):
            raise _Refused("a tensor has a size that is no number")
        last = offset + sum((count - 1) * step for count, step in zip(size, stride, strict=True))
        if math.prod(size) > storage.count or (0 not in size and last >= storage.count):
            raise _Refused("a tensor is larger than its numbers")
        return _Tensor(storage, offset, size, stride)
    raise _Refused("it calls something")


def _storage(described: Any) -> _Storage:
    if not isinstance(described, tuple) or len(described) != 5:
        raise _Refused("numbers are described otherwise than torch does")
    word, kind, file, place, count = described
    types = (word, file, place)
    if word != "storage" or not isinstance(kind, _Name) or not all(isinstance(text, str) for text in types):
        raise _Refused("numbers are described otherwise than torch does")
    name = kind.text.removeprefix("torch ")
    if name not in TYPES or type(count) is not int or not 0 <= count < 2**50:
        raise _Refused("numbers are of no type, or no number of them is named")
    if not re.fullmatch(PLACES, place):
        raise _Refused("numbers are of no place that torch knows")
    return _Storage(name, file, count)


def _read(file: zipfile.ZipFile, archive: Archive, name: str) -> bytes:
    if name not in archive.files:
        raise _Refused(f"it lacks {name[:60]}")
    return file.read(archive.files[name].entry)


def _tensor(file: zipfile.ZipFile, archive: Archive, described: _Tensor) -> torch.Tensor:
    kind = TYPES[described.storage.kind]
    name = f"data/{described.storage.file}"
    stored = archive.files.get(name)
    if stored is not None:  # judged before a byte is read: a small file could fill the memory
        if stored.size != described.storage.count * kind.itemsize:
            raise _Refused(f"{name[:60]} has another size than the pickle says")
        if stored.entry.compress_type != zipfile.ZIP_STORED:
            raise _Refused(f"{name[:60]} is compressed, which torch does not do")
    data = _read(file, archive, name)
    if not data:
        return torch.empty(described.size, dtype=kind)
    whole = torch.frombuffer(bytearray(data), dtype=kind)
    return whole.as_strided(described.size, described.stride, described.offset).clone(memory_format=torch.contiguous_format)
