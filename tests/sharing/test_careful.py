"""A careful path: describe, verify and segment evaluate no expression of a bundle, import nothing of it, unpickle nothing.

Shown on bundles in which everything that could be run is poisoned, with Python's audit hook watching (`tests.sharing.watched`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from custom_components.inference import Segmenter
from scripts.segment import app as segment
from scripts.signing_key import app as signing_key
from tests.phantoms import hippocampus_like, save_nifti
from tests.sharing.bundles import ROOT, listed_anew

POISON = "u2net_poison_marker"
EVERYTHING = ".*"
WHAT_SEGMENTING_READS = r"manifest\.json(\.sig)?|configs/domains/\w+\.json|models/\w+\.safetensors"


class Evil:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (f"open({POISON!r}, 'w').close()",)


def poisoned(folder: Path, model_file: bool = True) -> Path:
    """Everything in a bundle that somebody could come to run leaves a file named after `POISON`."""
    code = f"open({POISON!r}, 'w').close()\n"
    for name in ("sitecustomize", "usercustomize", "torch", "monai", "numpy", "typer", "safetensors", "conftest"):
        (folder / f"{name}.py").write_text(code)
    for path in (folder / "custom_components").rglob("*.py"):
        path.write_text(code)
    (folder / "segment.py").write_text(code)
    for path in (folder / "configs").glob("*.json"):
        values = json.loads(path.read_text())
        values["poison"] = f"${code.strip()}"
        values["imports"] = [f"$__import__('pathlib').Path({POISON!r}).touch()"]
        values["network_def"] = {"_target_": "os.system", "command": f"touch {POISON}"}
        values["run"] = [f"${code.strip()}"]
        path.write_text(json.dumps(values))
    sections = "[loggers]\nkeys=root\n[handlers]\nkeys=h\n[formatters]\nkeys=\n[logger_root]\nhandlers=h\n[handler_h]\n"
    logging = f"{sections}class={code.strip()}\nargs=()\n"
    (folder / "configs" / "logging.conf").write_text(logging)
    if model_file:
        torch.save({"weight": Evil()}, folder / "models" / "model.pt")
    listed_anew(folder)
    return folder


def watched(folder: Path, home: Path, may_open: str, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a script of the project in the poisoned folder itself, under the hook."""
    home.mkdir(exist_ok=True)
    command = [sys.executable, str(ROOT / "tests" / "sharing" / "watched.py"), str(folder), POISON, may_open]
    result = subprocess.run(
        [*command, str(ROOT / "scripts" / script), *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "MONAI_EVAL_EXPR": "0", "OMP_NUM_THREADS": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "CAUGHT" not in result.stderr, result.stderr[-3000:]
    assert "Traceback" not in result.stderr, result.stderr[-3000:]
    assert list(folder.rglob(f"{POISON}*")) == []
    return result


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return save_nifti(tmp_path / "images" / "case.nii.gz", hippocampus_like(seed=4)[0])


def test_segmenting_with_a_poisoned_bundle(folder: Path, image: Path, tmp_path: Path) -> None:
    expected = Segmenter.from_bundle(folder, "cpu", domain="first").segment(image).label.numpy()[0]
    poisoned(folder)
    arguments = (image, "--bundle", folder, "--domain", "first", "--device", "cpu", "--output-dir", tmp_path / "out")
    report = tmp_path / "report.json"
    result = watched(
        folder, tmp_path / "home", WHAT_SEGMENTING_READS, "segment.py", *arguments, "--trusted-only", "--report", report
    )
    assert result.returncode == 0, result.stderr
    assert np.array_equal(np.asarray(nib.load(tmp_path / "out" / "case_seg.nii.gz").dataobj), expected)
    trusted = json.loads(report.read_text())["trusted"]
    assert set(trusted["files"]) == {"models/trunk.safetensors", "models/first.safetensors", "configs/domains/first.json"}


def test_describing_and_verifying_a_poisoned_bundle(folder: Path, tmp_path: Path) -> None:
    poisoned(folder)
    home = tmp_path / "home"
    described = watched(folder, home, EVERYTHING, "adapters.py", "list", folder)
    assert described.returncode == 1 and "asks for __builtin__.exec" in described.stderr
    assert "first" in described.stdout and "second" in described.stdout
    shown = watched(folder, home, EVERYTHING, "adapters.py", "show", folder, "first")
    assert shown.returncode == 0 and '"patch_size"' in shown.stdout
    verified = watched(folder, home, EVERYTHING, "verify_bundle.py", folder)
    assert verified.returncode == 1
    assert [line for line in verified.stderr.splitlines() if line.startswith("Error") and "asks for __builtin__.exec" in line]


def test_poisoned_code_and_configurations_are_named(folder: Path, tmp_path: Path) -> None:
    """With weights that are in order a bundle is verified, and all that is not the project's is pointed out."""
    poisoned(folder, model_file=False)
    verified = watched(folder, tmp_path / "home", EVERYTHING, "verify_bundle.py", folder)
    assert verified.returncode == 0, verified.stderr
    notes = "\n".join(line for line in verified.stderr.splitlines() if line.startswith("note"))
    for said in (
        "configs/inference.json, run#0",
        "configs/inference.json, network_def#_target_: 'os.system'",
        "configs/logging.conf",
    ):
        assert said in notes
    assert "sitecustomize.py" in notes and "torch.py" in notes and "custom_components/__init__.py" in notes
    strict = watched(folder, tmp_path / "home", EVERYTHING, "verify_bundle.py", folder, "--only-known-code")
    assert strict.returncode == 1 and "verified" not in strict.stdout


def test_the_watch_sees_what_it_should(folder: Path, tmp_path: Path) -> None:
    """The hook is no check that cannot fail: each kind of thing it looks for is seen."""
    poisoned(folder)
    script = tmp_path / "careless.py"
    for careless, seen in {
        f"import pickle, sys; sys.path.insert(0, {str(folder)!r}); import usercustomize": "executing",
        f"import torch; torch.load({str(folder / 'models' / 'model.pt')!r}, weights_only=False)": "unpickling __builtin__.exec",
        f"eval({f'{POISON!r} and 1'!r})": "compiling",
        f"open({str(folder / 'configs' / 'inference.json')!r})": "opening",
        f"import os; os.system('true {POISON}')": "starting",
    }.items():
        script.write_text(careless)
        command = [sys.executable, str(ROOT / "tests" / "sharing" / "watched.py"), str(folder), POISON, WHAT_SEGMENTING_READS]
        result = subprocess.run([*command, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 99 and f"CAUGHT {seen}" in result.stderr, (careless, result.stderr)


def segmented(folder: Path, image: Path, out: Path, *more: object) -> Any:
    arguments = [image, "--bundle", folder, "--domain", "first", "--device", "cpu", "--output-dir", out, *more]
    return CliRunner(env={"COLUMNS": "200"}).invoke(segment, list(map(str, arguments)))


@pytest.mark.parametrize("name", ["models/trunk.safetensors", "models/first.safetensors", "configs/domains/first.json"])
def test_trusted_only_refuses_a_file_that_was_changed(folder: Path, image: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data.replace(b" ", b"\t", 1) if name.endswith("json") else data[:-1] + bytes([data[-1] ^ 1]))
    result = segmented(folder, image, tmp_path / "out", "--trusted-only")
    assert result.exit_code == 1 and f"{name}: was changed" in result.stderr, result.output
    assert not (tmp_path / "out").exists()
    # What it does not read may differ: MONAI's run leaves compiled code beside the bundle's.
    (folder / name).write_bytes(data)
    (folder / "configs" / "train.json").write_text("{}")
    assert segmented(folder, image, tmp_path / "out", "--trusted-only").exit_code == 0


def test_trusted_only_refuses_what_the_manifest_does_not_know(universal: Path, folder: Path, image: Path, tmp_path: Path) -> None:
    result = segmented(universal, image, tmp_path / "out", "--trusted-only")
    assert result.exit_code == 1 and "manifest.json: no such file" in result.stderr
    result = segmented(folder, image, tmp_path / "out", "--trusted-only", "--models", universal / "models")
    assert result.exit_code == 1 and "no part of the bundle" in result.stderr
    listed_anew(
        folder, lambda values: values["files"].remove(next(f for f in values["files"] if f["path"] == "models/first.safetensors"))
    )
    result = segmented(folder, image, tmp_path / "out", "--trusted-only")
    assert result.exit_code == 1 and "models/first.safetensors: is not in the manifest" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_public_key_asks_for_a_signature(folder: Path, image: Path, tmp_path: Path) -> None:
    from custom_components.sharing.signature import read_private_key

    for name in ("own", "other"):
        assert CliRunner().invoke(signing_key, [str(tmp_path / f"{name}.pem"), "--plain"]).exit_code == 0
    key, other = tmp_path / "own.pub.pem", tmp_path / "other.pub.pem"
    result = segmented(folder, image, tmp_path / "out", "--public-key", key)
    assert result.exit_code == 1 and "is not signed" in result.stderr
    sign = read_private_key(tmp_path / "own.pem").sign
    (folder / "manifest.json.sig").write_bytes(sign((folder / "manifest.json").read_bytes()))
    result = segmented(folder, image, tmp_path / "out", "--public-key", other)
    assert result.exit_code == 1 and "another key signed" in result.stderr
    assert not (tmp_path / "out").exists()
    assert segmented(folder, image, tmp_path / "out", "--public-key", key).exit_code == 0
