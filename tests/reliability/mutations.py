"""Damage and malice for files, drawn from a `random.Random`: the same generator gives the same file.

Bytes are changed blindly; JSON, safetensors, NIfTI, text headers and zip files are changed where they mean something, and put
together again, so that what is behind the outermost check is reached too.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["change_bytes", "change_gzip", "change_json", "change_nifti", "change_safetensors", "change_text_header", "change_zip"]

INTEGERS = (0, 1, -1, 2, 3, 127, 255, 256, 32767, -32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1, 10**30)
NUMBERS = (*INTEGERS, 0.5, -0.0, 1e-320, 1e-9, 1e9, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "a", "0", "-1", "None", "true", "a" * 70, "a" * 5000, "ä", "名前", "\u202eabc", "e\u0301", "\x00", "a\x00b"),
    *("\x1b[31mred", "a\nb", "\ud800", "\udfff\ud800", "../../etc/passwd", "/etc/passwd", "..", ".", "a/b", "C:\\x"),
    *("\\\\host\\x", "con", "~/x", "background", "trunk", "domains.x", "__class__", "$import os", "@domain", "%s%n", "{0}"),
    *("1e999", "９"),
)


def _value(rng: random.Random) -> Any:
    kind = rng.randrange(8)
    if kind < 2:
        return rng.choice(NUMBERS)
    if kind < 4:
        return rng.choice(TEXTS)
    if kind == 4:
        return rng.choice((None, True, False, [], {}, [[]], [{}], {"": None}, [None] * 3, [0, 0, 0], [1, 1, 1], [10**9] * 3))
    if kind == 5:
        return [rng.choice(NUMBERS) for _ in range(rng.choice((1, 2, 3, 4, 300)))]
    if kind == 6:
        return {rng.choice(TEXTS): rng.choice(NUMBERS) for _ in range(rng.randrange(4))}
    value: Any = rng.choice(TEXTS)
    for _ in range(rng.choice((2, 10, 200))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def _places(value: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) of a JSON value."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(pairs):
        found.append((value, key))
        _places(item, found)
    return found


def change_value(value: Any, rng: random.Random) -> Any:
    """A JSON value with one to three changes of its tree."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = _places(value, [])
        if not places or rng.random() < 0.03:
            return _value(rng)
        container, key = rng.choice(places)
        kind = rng.randrange(8)
        if kind < 3:
            container[key] = _value(rng)
        elif kind == 3:
            del container[key]
        elif kind == 4 and isinstance(container, dict):
            container[rng.choice(TEXTS) if rng.random() < 0.7 else f"{key}x"] = container.pop(key)
        elif kind == 5 and isinstance(container, dict):
            container[rng.choice(TEXTS)] = _value(rng)
        elif kind == 6 and isinstance(container, list):
            container[key:key] = [copy.deepcopy(container[key])] * rng.choice((1, 2, 100))
        else:
            other, name = rng.choice(places)
            container[key] = (
                copy.deepcopy(other[name]) if name in (other if isinstance(other, dict) else range(len(other))) else None
            )
    return value


def change_json(content: bytes, rng: random.Random) -> bytes:
    """A JSON file with another tree, or with text that is JSON to some and not to others."""
    if rng.random() < 0.15:
        return change_bytes(content, rng)
    value = change_value(json.loads(content), rng)
    text = json.dumps(value, ensure_ascii=rng.random() < 0.7)
    kind = rng.randrange(12)
    if kind == 0 and "{" in text[:200]:  # a key twice
        at = text.index("{")
        text = text[: at + 1] + json.dumps(rng.choice((*TEXTS, "name", "labels", "spacing", "format"))) + ": 1, " + text[at + 1 :]
        text = text.replace('{"', '{"name": "other", "', 1) if rng.random() < 0.5 else text
    elif kind == 1:
        depth = rng.choice((900, 5000, 200_000))
        text = text.replace("null", "[" * depth + "]" * depth, 1) if "null" in text else "[" * depth
    elif kind == 2:
        text = text.replace("1", "9" * rng.choice((20, 400, 5000)), 1)
    elif kind == 3:
        text = rng.choice(("\ufeff", " ", "\x00", "//a\n", "")) + text + rng.choice(("", "\n", "{}", "\x00", ","))
    encoded = text.encode("utf-8", "surrogatepass")
    if kind == 4:
        encoded = text.encode(rng.choice(("utf-16", "utf-32", "latin-1", "utf-7")), "replace")
    return encoded


def change_bytes(content: bytes, rng: random.Random, other: bytes = b"") -> bytes:
    """One to four blind changes; ``other`` is a file to splice with."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        # The beginning is where formats say what they are.
        at = min(at, rng.choice((8, 64, 400, len(data))))
        length = rng.choice((1, 2, 4, 8, 64, max(1, len(data) // 3)))
        kind = rng.randrange(10)
        if kind < 2 and data:
            data[min(at, len(data) - 1)] ^= 1 << rng.randrange(8)
        elif kind == 2 and data:
            data[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == 3:
            del data[at:]
        elif kind == 4:
            del data[at : at + length]
        elif kind == 5:
            data[at:at] = data[at : at + length]
        elif kind == 6:
            data[at:at] = rng.randbytes(length)
        elif kind == 7:
            size, number = rng.choice(((1, "b"), (2, "h"), (4, "i"), (8, "q"))), rng.choice(INTEGERS[:-1])
            order = rng.choice("<>")
            wrapped = (number + 2 ** (8 * size[0] - 1)) % 2 ** (8 * size[0]) - 2 ** (8 * size[0] - 1)
            data[at : at + size[0]] = struct.pack(order + size[1], wrapped)
        elif kind == 8:
            data[at : at + length] = bytes(length)
        else:
            data[at:] = (other or content)[rng.randrange(len(other or content) + 1) :]
    return bytes(data)


def change_gzip(change: Callable[[bytes, random.Random], bytes]) -> Callable[[bytes, random.Random], bytes]:
    """``change`` within a gzip file; now and then of the gzip file itself."""

    def changed(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.2:
            return change_bytes(content, rng)
        packed = gzip.compress(change(gzip.decompress(content), rng), compresslevel=1, mtime=0)
        return change_bytes(packed, rng) if rng.random() < 0.05 else packed

    return changed


# Offset and struct format of NIfTI-1's fields.
NIFTI = (
    *((0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (70, "h"), (72, "h"), (74, "h")),
    *((76, "f"), (80, "f"), (84, "f"), (88, "f"), (92, "f"), (108, "f"), (112, "f"), (116, "f"), (123, "b")),
    *((252, "h"), (254, "h"), *((offset, "f") for offset in range(256, 328, 4)), (344, "i")),
)


def change_nifti(content: bytes, rng: random.Random) -> bytes:
    """A NIfTI-1 file with other values in its header, or other bytes."""
    if rng.random() < 0.25:
        return change_bytes(content, rng)
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 3))):
        offset, kind = rng.choice(NIFTI)
        if kind == "f":
            value = struct.pack("<d", float(rng.choice(NUMBERS)))
            single = struct.unpack("<d", value)[0]
            data[offset : offset + 4] = struct.pack("<f", single if abs(single) < 3e38 or single != single else float("inf"))
        else:
            size = struct.calcsize(kind)
            number = rng.choice((*INTEGERS[:-1], *range(2, 17), 32, 64, 128, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304))
            wrapped = (number + 2 ** (8 * size - 1)) % 2 ** (8 * size) - 2 ** (8 * size - 1)
            data[offset : offset + size] = struct.pack("<" + kind, wrapped)
    if rng.random() < 0.15:
        del data[rng.randrange(len(data)) :]
    return bytes(data)


def change_text_header(content: bytes, rng: random.Random) -> bytes:
    """MetaImage and NRRD: a header of lines, then the voxels."""
    if rng.random() < 0.25:
        return change_bytes(content, rng)
    end = min(len(content), 600)
    lines = content[:end].split(b"\n")
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(lines))
        words = lines[at].split(b" ")
        kind = rng.randrange(6)
        if kind < 3:
            number = str(rng.choice(NUMBERS)).encode()
            words[rng.randrange(len(words))] = number if kind else rng.choice(TEXTS).encode("utf-8", "surrogatepass")
            lines[at] = b" ".join(words)
        elif kind == 3:
            del lines[at]
            lines = lines or [b""]
        elif kind == 4:
            lines.insert(at, rng.choice(lines))
        else:
            lines[at] = change_bytes(lines[at] or b"x", rng)
    return b"\n".join(lines) + content[end:]


def change_safetensors(refit: Callable[[bytes], bytes] | None = None) -> Callable[[bytes, random.Random], bytes]:
    """Of the header's JSON, of our JSON within it, or of the bytes. ``refit`` makes fingerprints fit again, as a forger would."""

    def changed(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.25:
            return change_bytes(content, rng)
        length = struct.unpack("<Q", content[:8])[0]
        header, data = json.loads(content[8 : 8 + length]), content[8 + length :]
        kind = rng.randrange(4)
        if kind == 0 and "u2net" in header.get("__metadata__", {}):
            inner = change_json(header["__metadata__"]["u2net"].encode(), rng)
            header["__metadata__"]["u2net"] = inner.decode("utf-8", "replace")
        elif kind == 1 and "u2net" in header.get("__metadata__", {}):
            values = change_value(json.loads(header["__metadata__"]["u2net"]), rng)
            header["__metadata__"]["u2net"] = json.dumps(values)
        elif kind == 2:
            header = change_value(header, rng)
        elif data:
            data = change_bytes(data, rng)[: len(data)].ljust(len(data), b"\0")
        text = json.dumps(header).encode("utf-8", "surrogatepass")
        told = len(text) if rng.random() < 0.9 else rng.choice((0, 1, len(text) + 1, 2**31, 2**62, 10**8))
        made = struct.pack("<Q", told) + text + data
        if refit is not None and rng.random() < 0.4:
            try:
                made = refit(made)
            except Exception:  # not every damaged file can be made to fit
                return made
        return made

    return changed


def change_zip(inner: Sequence[tuple[str, Callable[[bytes, random.Random], bytes]]]) -> Callable[[bytes, random.Random], bytes]:
    """Of one member, put together again, or of the zip file's bytes.

    Args:
        inner: ending of a member's name, and how such a member is changed; others are changed as bytes.
    """

    def changed(content: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return change_bytes(content, rng)
        if not zipfile.is_zipfile(io.BytesIO(content)):
            return change_bytes(content, rng)
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
        at = rng.randrange(len(members))
        if inner and rng.random() < 0.6:
            ends = tuple(end for end, _ in inner)
            at = rng.choice([i for i, (info, _) in enumerate(members) if info.filename.endswith(ends)] or [at])
        info, data = members[at]
        kind = rng.randrange(8)
        if kind == 0:
            del members[at]
        elif kind == 1:
            members.append((copy.copy(info), data))
        elif kind == 2:
            info = copy.copy(info)
            info.filename = rng.choice(TEXTS).encode("utf-8", "replace").decode() or "x"
            members[at] = (info, data)
        elif kind == 3:
            info = copy.copy(info)
            info.external_attr = rng.choice((0o120777 << 16, 0o040755 << 16, 0o060666 << 16, 0xFFFFFFFF))
            members[at] = (info, data)
        else:
            change = next((how for end, how in inner if info.filename.endswith(end)), change_bytes)
            members[at] = (info, change(data, rng))
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that come twice, which are meant
            with zipfile.ZipFile(buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
                for info, data in members:
                    clean = zipfile.ZipInfo(info.filename.replace("\x00", "") or "x", (1980, 1, 1, 0, 0, 0))
                    clean.external_attr, clean.compress_type = info.external_attr, rng.choice((0, 8))
                    archive.writestr(clean, data)
        made = buffer.getvalue()
        return change_bytes(made, rng) if rng.random() < 0.1 else made

    return changed
