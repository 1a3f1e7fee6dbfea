"""Weights load strictly, or not at all; files appear whole, or not at all; no file can run code."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from custom_components.weights import WeightsError, load_state, read_tensors, save_state

SUFFIXES = [".pt", ".pth", ".safetensors"]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


class Code:
    """What a hostile or careless file holds: unpickling it calls a function."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_round_trip_is_exact_and_its_bytes_are_reproducible(tmp_path: Path, suffix: str) -> None:
    one, other = network(), network()
    save_state(one, tmp_path / f"one{suffix}")
    save_state(load_state(other, tmp_path / f"one{suffix}"), tmp_path / f"two{suffix}")
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"two{suffix}").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"one{suffix}", f"two{suffix}"]


def test_other_layouts_and_shared_storage_are_written(tmp_path: Path) -> None:
    convolution = nn.Conv3d(2, 3, 3).to(memory_format=torch.channels_last_3d)
    tied = nn.ModuleList([convolution, nn.Conv3d(2, 3, 3)])
    tied[1].weight = convolution.weight
    save_state(tied, tmp_path / "tied.safetensors")
    assert torch.equal(read_tensors(tmp_path / "tied.safetensors")["1.weight"], convolution.weight)


def test_file_is_readable_as_the_umask_allows(tmp_path: Path) -> None:
    save_state(network(), tmp_path / "w.pt")
    (tmp_path / "plain").touch()
    assert (tmp_path / "w.pt").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("0.bias"), "missing (1): 0.bias"),
        (lambda s: s.update({"2.weight": torch.ones(1)}), "unexpected (1): 2.weight"),
        (lambda s: s.update({"0.weight": torch.ones(3, 4)}), "wrong shape (1): 0.weight is 3×4, the network has 3×2"),
        (lambda s: s.update({"0.bias": torch.ones(3, dtype=torch.float16)}), "wrong type (1): 0.bias is float16"),
        (lambda s: s.update({"0.bias": torch.tensor([1, torch.inf, 0])}), "NaN or infinite values in (1): 0.bias"),
        (lambda s: s.update({"0.bias": torch.tensor([1, torch.nan, 0])}), "NaN or infinite values in (1): 0.bias"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_does_not_fit_is_listed_and_nothing_is_loaded(
    tmp_path: Path, suffix: str, change: Callable[[dict[str, torch.Tensor]], None], message: str
) -> None:
    from safetensors.torch import save_file

    state = {k: torch.full_like(v, 7) for k, v in network().state_dict().items()}
    change(state)
    path = tmp_path / f"w{suffix}"
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    target = network()
    before = {k: v.clone() for k, v in target.state_dict().items()}
    with pytest.raises(WeightsError, match=re.escape(message)) as error:
        load_state(target, path)
    assert str(path) in str(error.value)
    assert all(torch.equal(v, before[k]) for k, v in target.state_dict().items())


def test_long_lists_are_cut(tmp_path: Path) -> None:
    torch.save({f"w{i}": torch.ones(1) for i in range(20)}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"unexpected \(20\): .*, and 12 more"):
        load_state(network(), tmp_path / "w.pt")


def test_code_is_refused_by_name_and_not_run(tmp_path: Path) -> None:
    torch.save({"weight": Code(tmp_path / "trap")}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"w\.pt: refused.*mkdir"):
        read_tensors(tmp_path / "w.pt")
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"not weights at all", None], ids=["empty", "text", "truncated"])
def test_damaged_files_are_named(tmp_path: Path, suffix: str, content: bytes | None) -> None:
    path = tmp_path / f"w{suffix}"
    save_state(network(), path)
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    with pytest.raises(WeightsError, match=re.escape(str(path))):
        read_tensors(path)


def test_absent_file_folder_and_other_kinds(tmp_path: Path) -> None:
    for path, message in [
        (tmp_path / "none.pt", "no such file"),
        (tmp_path / "none.safetensors", "no such file"),
        (tmp_path / "weights.h5", "not '.h5'"),
    ]:
        with pytest.raises(WeightsError, match=re.escape(message)):
            read_tensors(path)
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(WeightsError, match="is a folder"):
        read_tensors(tmp_path / "folder.pt")


@pytest.mark.parametrize("values", [{"model": {"w": torch.ones(1)}, "epoch": 3}, [torch.ones(1)], torch.ones(1), {}])
def test_files_that_are_no_state_dict_say_so(tmp_path: Path, values: object) -> None:
    torch.save(values, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match="not a plain state dict"):
        read_tensors(tmp_path / "w.pt")


def test_saving_refuses_other_suffixes_and_broken_values(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="are written as"):
        save_state(network(), tmp_path / "w.bin")
    broken = network()
    broken[0].bias.data.fill_(torch.nan)
    with pytest.raises(WeightsError, match=r"0\.bias"):
        save_state(broken, tmp_path / "w.pt")
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(WeightsError, match="cannot be written"):
        save_state(network(), tmp_path / "file" / "models" / "w.pt")


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(network(), tmp_path / "w.pt")
    before = (tmp_path / "w.pt").read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WeightsError, match="No space left"):
        save_state(network(), tmp_path / "w.pt")
    assert (tmp_path / "w.pt").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
