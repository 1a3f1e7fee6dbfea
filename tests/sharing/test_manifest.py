"""The manifest: to the byte what it was, and refused where a field, a path or the JSON itself is not in order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from custom_components.errors import InputError
from custom_components.sharing.manifest import MAX_BYTES, Manifest, parse_manifest, read_manifest

SHA = "0" * 64


def values(**changes: Any) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "u2net bundle",
        "name": "mine_ct_segmentation",
        "version": "1.2.3",
        "trunk": SHA,
        "domains": [{"name": "mine_ct", "adapter": SHA, "organ": "Milz", "modality": "CT", "classes": ["spleen"]}],
        "licence": {"code": "Apache-2.0", "weights": "CC-BY-SA 4.0"},
        "provenance": {"project": "p", "project_version": "1", "commit": None, "modified": None, "packages": {"torch": "2"}},
        "files": [entry("a.txt"), entry("b/ü.txt", size=3)],
        **changes,
    }


def entry(path: str, **changes: Any) -> dict[str, Any]:
    return {"path": path, "size": 0, "sha256": SHA, "large": False, **changes}


def encoded(**changes: Any) -> bytes:
    return json.dumps(values(**changes)).encode()


def test_bytes_and_back() -> None:
    manifest = parse_manifest(encoded())
    assert manifest.by_path["b/ü.txt"].size == 3
    assert parse_manifest(manifest.to_bytes()) == manifest
    assert json.loads(manifest.to_bytes()) == values()
    assert parse_manifest(manifest.to_bytes()).to_bytes() == manifest.to_bytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON"),
        (b"[]", "one JSON object"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"format": 1, "format": 1}', "twice in one object"),
        (b'{"format": NaN}', "NaN"),
        (b" " * (MAX_BYTES + 1), "larger than"),
        (b'{"size": ' + b"9" * 5000 + b"}", "not valid JSON"),
        (encoded(format=2), "update the package"),
        (encoded(kind="bundle"), "update the package"),
        (encoded(more=1), "more: Extra"),
        (encoded(trunk="0" * 63), "trunk"),
        (encoded(trunk=SHA.upper().replace("0", "A")), "trunk"),
        (encoded(name="../x"), "name"),
        (encoded(name=".."), "name"),
        (encoded(version="1\n2"), "version"),
        (encoded(domains=[]), "domains"),
        (encoded(domains=values()["domains"] * 2), "a domain twice"),
        (encoded(files=[]), "files"),
        (encoded(files=[entry("a"), entry("a")]), "one file on some systems"),
        (encoded(files=[entry("a"), entry("A")]), "one file on some systems"),
        (encoded(files=[entry("a"), entry("a/b")]), "a file and a folder"),
        (encoded(files=[entry("../a")]), "'..'"),
        (encoded(files=[entry("/a")]), "absolute"),
        (encoded(files=[entry("\ud800")]), "files|name|JSON"),
        (encoded(files=[entry("manifest.json")]), "cannot be in it"),
        (encoded(files=[entry("Manifest.json.SIG")]), "cannot be in it"),
        (encoded(files=[entry("a", size=-1)]), "size"),
        (encoded(files=[entry("a", size=1.0)]), "size"),
        (encoded(files=[entry("a", size=True)]), "size"),
        (encoded(files=[entry("a", size="1")]), "size"),
        (encoded(files=[entry("a", large=1)]), "large"),
        (encoded(files=[entry("custom_components/domain.py", large=True)]), "'custom_components/domain.py' is large"),
        (encoded(files=[entry("models/more/a.safetensors", large=True)]), "is large and may be absent"),
        (encoded(files=[entry("models/last.pt", large=True)]), "is large and may be absent"),
    ],
)
def test_what_is_not_in_order_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        parse_manifest(data, "x/manifest.json")
    assert str(caught.value).startswith("x/manifest.json: ")


def test_absent_or_a_link(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path)
    (tmp_path / "other.json").write_bytes(encoded())
    (tmp_path / "manifest.json").symlink_to(tmp_path / "other.json")
    with pytest.raises(InputError, match="no such file"):
        read_manifest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    (tmp_path / "other.json").rename(tmp_path / "manifest.json")
    assert read_manifest(tmp_path) == parse_manifest(encoded())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(values())), JSON)
def test_any_value_in_any_field_is_read_or_refused(field: str, value: Any) -> None:
    try:
        manifest = parse_manifest(json.dumps(values(**{field: value})).encode())
    except InputError:
        return
    assert isinstance(manifest, Manifest)
    assert json.loads(manifest.to_bytes())[field] == value
