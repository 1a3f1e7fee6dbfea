"""``model.pt`` without unpickling: the same tensors as torch's own reader gives, and no other kind of file."""

from __future__ import annotations

import collections
import io
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from custom_components.errors import InputError
from custom_components.weights.model_file import TYPES, read_model_file


def saved(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def assert_as_torch_reads(path: Path) -> None:
    own, other = read_model_file(path), torch.load(path, weights_only=True)
    assert list(own) == list(other)
    for key, value in other.items():
        assert own[key].dtype == value.dtype and own[key].shape == value.shape
        assert (
            own[key].contiguous().reshape(-1).view(torch.uint8).tolist()
            == value.contiguous().reshape(-1).view(torch.uint8).tolist()
        )


def test_the_shipped_file(bundle: Path) -> None:
    assert_as_torch_reads(bundle / "models" / "model.pt")


def test_what_torch_makes_of_a_module(tmp_path: Path) -> None:
    """An ordered mapping with a note of versions, and a number without axes."""
    network = torch.nn.Sequential(torch.nn.Conv3d(2, 3, 3), torch.nn.BatchNorm3d(3), torch.nn.Linear(300, 5))
    assert_as_torch_reads(saved(tmp_path / "model.pt", network.state_dict()))


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 63, 64, 65, 1000, 300_000])
def test_every_size(tmp_path: Path, count: int) -> None:
    """torch pads between the files of its zip, and writes their sizes behind them."""
    state = {"w": torch.arange(count, dtype=torch.float32), "b": torch.zeros(3), "c": torch.arange(count, dtype=torch.uint8)}
    assert_as_torch_reads(saved(tmp_path / "model.pt", state))


def test_views_shared_numbers_and_tensors_of_nothing(tmp_path: Path) -> None:
    whole = torch.randn(6, 5)
    state = {
        "view": whole[1:3, ::2],
        "turned": whole.T,
        "same": whole,
        "none": torch.empty(0, 3),
        "nan": torch.tensor(float("nan")),
    }
    assert_as_torch_reads(saved(tmp_path / "model.pt", state))


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(TYPES.values(), key=str)), st.lists(st.integers(0, 4), max_size=4)),
        min_size=1,
        max_size=6,
    )
)
def test_every_type_and_shape(tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, list[int]]]) -> None:
    state = {f"k{number}": torch.rand(shape).mul(9).to(kind) for number, (kind, shape) in enumerate(kinds)}
    assert_as_torch_reads(saved(tmp_path_factory.mktemp("types") / "model.pt", state))


class Evil:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import sys; sys.evil_was_run = True",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Evil(), "asks for __builtin__.exec"),
        ({"weight": Evil()}, "asks for"),
        ({"weight": torch.zeros(2), "epoch": 3}, "'epoch' is no tensor"),
        ({"state": {"weight": torch.zeros(2)}}, "'state' is no tensor"),
        ({}, "empty"),
        ([torch.zeros(2)], "opcode"),
        ({1: torch.zeros(2)}, "no text"),
        (torch.zeros(2), "no mapping"),
        (torch.nn.Linear(1, 1), "asks for"),
        ({"weight": torch.nn.Parameter(torch.zeros(2))}, "asks for torch._utils._rebuild_parameter"),
        ({"weight": torch.zeros(2, dtype=torch.complex64)}, "asks for torch.ComplexFloatStorage"),
        ({"weight": torch.sparse_coo_tensor([[0]], [1.0], (2,), check_invariants=False)}, "asks for"),
        (collections.Counter(a=1), "asks for"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_model_file(saved(tmp_path / "model.pt", value))
    assert not hasattr(sys, "evil_was_run")


def rewritten(path: Path, change: dict[str, bytes]) -> Path:
    """Files of the zip replaced."""
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    base = next(iter(content)).split("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {**content, **{f"{base}/{name}": data for name, data in change.items()}}.items():
            archive.writestr(name, data)
    return path


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


STORAGE = b"ctorch\nFloatStorage\n"
NUMBERS = b"(X\x07\x00\x00\x00storage" + STORAGE + b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
EMPTY = b"ccollections\nOrderedDict\n)R"


def tensor(offset: bytes = b"K\x00", size: bytes = b"K\x02\x85", stride: bytes = b"K\x01\x85", hooks: bytes = EMPTY) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + NUMBERS + offset + size + stride + b"\x89" + hooks + b"tR"


def one(value: bytes) -> bytes:
    return opcodes(b"}", b"X\x01\x00\x00\x00w", value, b"s")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (one(tensor(size=b"K\x03\x85")), "larger than its numbers"),
        (one(tensor(offset=b"K\x01")), "larger than its numbers"),
        (one(tensor(stride=b"K\x02\x85")), "larger than its numbers"),
        (one(tensor(size=b"J\xff\xff\xff\xff\x85")), "no number"),
        (one(tensor(stride=b"J\xff\xff\xff\xff\x85")), "no number"),
        (one(tensor(size=b"\x88\x85")), "no number"),
        (one(tensor(size=b"K\x02K\x01\x86")), "otherwise than torch"),
        (one(tensor(hooks=b"}X\x01\x00\x00\x00hK\x01s")), "otherwise than torch"),
        (opcodes(b"}", b"X\x01\x00\x00\x00w", tensor(), b"s", b"X\x01\x00\x00\x00w", tensor(), b"s"), "twice"),
        (one(tensor()) + b"junk", "goes on after its end"),
        (opcodes(b"cos\nsystem\nX\x02\x00\x00\x00ls\x85R"), "asks for os.system"),
        (opcodes(b"(X\x02\x00\x00\x00lsios\nsystem\n"), "opcode INST"),
        (opcodes(b"\x8c\x02os\x8c\x06system\x93"), "opcode STACK_GLOBAL"),
        (opcodes(b"}}b"), "attributes"),
        (opcodes(b"ccollections\nOrderedDict\n}R"), "calls something"),
        (opcodes(b"K\x01Q"), "otherwise than torch"),
        (opcodes(b"h\x07"), "damaged"),
        (b"\x80\x04}.", "protocol 4"),
        (b"", "damaged"),
        (b"\x80\x02}", "damaged"),
    ],
)
def test_a_pickle_by_hand(tmp_path: Path, data: bytes, message: str) -> None:
    path = rewritten(saved(tmp_path / "model.pt", {"w": torch.zeros(2)}), {"data.pkl": data})
    with pytest.raises(InputError, match=message):
        read_model_file(path)


def test_the_same_pickle_by_hand_that_is_right(tmp_path: Path) -> None:
    path = rewritten(saved(tmp_path / "model.pt", {"w": torch.tensor([1.0, 2.0])}), {"data.pkl": one(tensor())})
    assert_as_torch_reads(path)
    assert read_model_file(path)["w"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("file", "data", "message"), [("data/0", b"1234", "another size"), ("byteorder", b"big", "little-endian")]
)
def test_numbers_that_are_not_as_described(tmp_path: Path, file: str, data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_model_file(rewritten(saved(tmp_path / "model.pt", {"w": torch.zeros(2)}), {file: data}))


@pytest.mark.parametrize(
    ("count", "method", "message"),
    [
        (5_000_000, zipfile.ZIP_DEFLATED, "another size"),
        (5_000_000, zipfile.ZIP_STORED, "another size"),
        (2, zipfile.ZIP_DEFLATED, "compressed"),
    ],
)
def test_numbers_are_judged_before_they_are_read(
    tmp_path: Path, count: int, method: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond what the pickle names or compressed, they could fill the memory."""
    path = saved(tmp_path / "model.pt", {"w": torch.zeros(2)})
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            if name.endswith("data/0"):
                # Not so even that it would be refused as a bomb.
                data = (os.urandom(1000) + bytes(99_000)) * (4 * count // 100_000) or bytes(8)
                archive.writestr(name, data, compress_type=method)
            else:
                archive.writestr(name, data)
    read: list[str] = []
    whole = zipfile.ZipFile.read

    def seen(self: zipfile.ZipFile, name: Any, *arguments: Any) -> bytes:
        read.append(name.filename)
        return whole(self, name, *arguments)

    monkeypatch.setattr(zipfile.ZipFile, "read", seen)
    with pytest.raises(InputError, match=message):
        read_model_file(path)
    assert read and not [name for name in read if "data/0" in name]


def test_tensors_that_share_numbers_do_not_fill_the_memory(tmp_path: Path) -> None:
    items = b"".join(b"X\x04\x00\x00\x00" + f"{number:04d}".encode() + tensor() + b"s" for number in range(9999))
    big = (
        opcodes(b"}", items).replace(b"K\x02tQ", b"J\x00\x00\x02\x00tQ").replace(b"K\x00K\x02\x85", b"K\x00J\x00\x00\x02\x00\x85")
    )
    path = rewritten(saved(tmp_path / "model.pt", {"w": torch.zeros(2)}), {"data.pkl": big, "data/0": bytes(4 * 0x20000)})
    with pytest.raises(InputError, match="far larger"):
        read_model_file(path)


def test_other_files(tmp_path: Path) -> None:
    legacy, plain, buffer = tmp_path / "legacy.pt", tmp_path / "plain.pt", io.BytesIO()
    torch.save({"w": torch.zeros(2)}, legacy, _use_new_zipfile_serialization=False)
    pickle.dump(Evil(), buffer)
    plain.write_bytes(buffer.getvalue())
    for path in (legacy, plain, tmp_path / "absent.pt"):
        with pytest.raises(InputError, match=path.name):
            read_model_file(path)
    assert not hasattr(sys, "evil_was_run")


def test_places_of_tensors(tmp_path: Path) -> None:
    """A file that was saved on a GPU is read, one that names a place that torch does not know is refused as torch does."""
    path = saved(tmp_path / "model.pt", {"w": torch.arange(3.0)})
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    there = b"X\x03\x00\x00\x00cpu"
    assert there in pickled
    rewritten(path, {"data.pkl": pickled.replace(there, b"X\x06\x00\x00\x00cuda:1")})
    assert read_model_file(path)["w"].tolist() == torch.load(path, "cpu", weights_only=True)["w"].tolist() == [0, 1, 2]
    rewritten(path, {"data.pkl": pickled.replace(there, b"X\x03\x00\x00\x00\x01pu")})
    with pytest.raises(InputError, match="place"):
        read_model_file(path)
    with pytest.raises(RuntimeError, match="location"):
        torch.load(path, weights_only=True)


@given(st.data())
def test_a_changed_byte_is_refused_or_read_as_torch_does(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever it accepts, torch's restricted reader accepts, and finds the same in it."""
    path = saved(tmp_path_factory.mktemp("changed") / "model.pt", {"w": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(3)})
    with zipfile.ZipFile(path) as archive:
        pickled = bytearray(archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl"))))
    pickled[data.draw(st.integers(0, len(pickled) - 1))] = data.draw(st.integers(0, 255))
    rewritten(path, {"data.pkl": bytes(pickled)})
    try:
        read_model_file(path)
    except InputError:
        return
    assert_as_torch_reads(path)
