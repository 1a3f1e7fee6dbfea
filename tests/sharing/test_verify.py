"""Verification: a bundle as it was packaged passes, and every way of spoiling it is refused with one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from custom_components.archives.archive import write_archive
from custom_components.sharing import known_values
from custom_components.sharing.package import Package, package_bundle
from custom_components.sharing.signature import key_id, make_keys, read_private_key, read_public_key
from custom_components.sharing.trusted import check_trusted
from custom_components.sharing.verify import verify_folder
from custom_components.weights import read_tensors
from custom_components.weights.files import write_tensors
from scripts.package_bundle import app as package
from scripts.verify_bundle import app as verify
from tests.sharing.bundles import listed_anew


def run(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "200"}).invoke(verify, list(map(str, arguments)))


def assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert lines and all(line.startswith("Error: ") for line in lines), result.stderr
    assert message in result.stderr
    assert "verified" not in result.stdout


def test_a_packaged_bundle_is_verified_and_unpacked(hippocampus_zip: Path, tmp_path: Path) -> None:
    result = run(hippocampus_zip, "--unpack", tmp_path / "out", "--report", tmp_path / "report.json", "--only-known-code")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "hippocampus_mri_segmentation"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [folder.name]
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "verified" and report["errors"] == [] and report["foreign_code"] == []
    assert report["signed_by"] is None and len(report["notes"]) == 1 and "not signed" in report["notes"][0]
    assert f"trunk {report['trunk']}" in result.stdout
    assert run(folder).exit_code == 0
    assert run(folder, "--trunk", report["trunk"]).exit_code == 0
    assert_refused(run(folder, "--trunk", "0" * 64), "not 0000")
    assert_refused(run(hippocampus_zip, "--unpack", tmp_path / "out"), "exists already")
    assert_refused(run(folder, "--unpack", tmp_path / "more"), "is a folder already")


def test_a_universal_bundle_is_known_code_too(universal_package: Package) -> None:
    assert universal_package.check.code == []
    assert run(universal_package.path, "--only-known-code").exit_code == 0


def flipped(path: Path, position: int = -1) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


CHANGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights": (lambda f: flipped(f / "models/first.safetensors"), "models/first.safetensors: was changed"),
    "model.pt": (lambda f: flipped(f / "models/model.pt", 30_000), "models/model.pt: was changed"),
    "a configuration": (lambda f: flipped(f / "configs/inference.json", 20), "configs/inference.json: was changed"),
    "code": (lambda f: flipped(f / "custom_components/domain.py"), "custom_components/domain.py: was changed"),
    "a shorter file": (lambda f: (f / "LICENSE").write_bytes(b"x"), "LICENSE: has 1 bytes"),
    "a missing file": (lambda f: (f / "docs/data_license.txt").unlink(), "docs/data_license.txt: is missing"),
    "a file more": (lambda f: (f / "configs/more.json").write_text("{}"), "configs/more.json: is not in the manifest"),
    "a hidden file more": (lambda f: (f / ".env").write_text(""), ".env: is not in the manifest"),
    "an adapter more": (
        lambda f: shutil.copy(f / "models/first.safetensors", f / "models/third.safetensors"),
        "third.safetensors",
    ),
    "compiled code": (lambda f: compiled(f), "__pycache__: 2 files that Python made"),
    "a link": (lambda f: linked(f, "LICENSE"), "LICENSE: is a link"),
    "a folder for a file": (lambda f: ((f / "LICENSE").unlink(), (f / "LICENSE").mkdir()), "LICENSE: is no plain file"),
    "a pipe": (lambda f: os.mkfifo(f / "pipe"), "pipe: is a special file"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "manifest.json: no such file"),
    "a broken manifest": (lambda f: (f / "manifest.json").write_text("{"), "manifest.json: is not valid JSON"),
}


def compiled(folder: Path) -> None:
    (folder / "custom_components" / "__pycache__").mkdir()
    for name in ("domain.cpython-311.pyc", "errors.cpython-311.pyc"):
        (folder / "custom_components" / "__pycache__" / name).write_bytes(b"")


def linked(folder: Path, name: str) -> None:
    (folder / name).rename(folder.parent / "elsewhere")
    (folder / name).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("case", CHANGED)
def test_what_differs_from_the_manifest_is_refused(folder: Path, case: str) -> None:
    change, message = CHANGED[case]
    change(folder)
    assert_refused(run(folder), message)


def rewritten(path: Path, header: Callable[[dict[str, Any]], None] | None = None, **tensors: torch.Tensor) -> None:
    with safe_open(path, framework="pt") as file:
        values = json.loads(file.metadata()["u2net"])
    if header is not None:
        header(values)
    save_file({**load_file(path), **tensors}, path, {"u2net": json.dumps(values)})


def one_bit(folder: Path) -> None:
    """-0 in place of 0 compares equal; so does no value but the bits."""
    state = read_tensors(folder / "models" / "model.pt")
    key = next(key for key, value in state.items() if value.numel() > 1)
    bits = state[key].view(torch.int32)
    bits.view(-1)[0] ^= 1
    write_tensors(folder / "models" / "model.pt", state)


def another_type(folder: Path) -> None:
    state = read_tensors(folder / "models" / "model.pt")
    write_tensors(folder / "models" / "model.pt", {key: value.double() for key, value in state.items()})


def swapped(folder: Path) -> None:
    one, two = (folder / "models" / f"{name}.safetensors" for name in ("first", "second"))
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def foreign(folder: Path) -> None:
    """An adapter that says it is of this trunk, and is not the one that the manifest names."""
    path = folder / "models" / "first.safetensors"
    key = next(iter(load_file(path)))
    rewritten(path, **{key: load_file(path)[key] + 1})


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "one bit of model.pt": (one_bit, "differs from the safetensors"),
    "another type in model.pt": (another_type, "differs from the safetensors"),
    "a parameter less in model.pt": (
        lambda f: write_tensors(f / "models/model.pt", dict(list(read_tensors(f / "models/model.pt").items())[1:])),
        "other parameters than the safetensors",
    ),
    "a checkpoint for model.pt": (lambda f: torch.save({"epoch": 3}, f / "models/model.pt"), "no plain state dict"),
    "another trunk": (lambda f: rewritten(f / "models/first.safetensors", lambda h: h.update(trunk="0" * 64)), "this trunk is"),
    "changed weights": (foreign, "the file was changed"),
    "adapters that changed places": (swapped, "first.safetensors: is the adapter of 'second'"),
    "a description of another shape": (
        lambda f: edited(f / "configs/domains/first.json", lambda d: d["channels"].append("T2")),
        "in_channels is 1, but domain.json says 2",
    ),
    "other classes": (
        lambda f: edited(
            f / "configs/domains/first.json",
            lambda d: d.update(labels={"background": 0, "left": 1, "right": 2}, postprocessing={}),
        ),
        "its domains are not those of the manifest",
    ),
    "a description without an adapter": (
        lambda f: shutil.copy(f / "configs/domains/first.json", f / "configs/domains/third.json"),
        "describes a domain that has no adapter",
    ),
    "a broken description": (lambda f: (f / "configs/domains/first.json").write_text("[]"), "first.json"),
    "broken JSON": (lambda f: (f / "configs/train.json").write_text("{"), "configs/train.json: is not valid JSON"),
    "another version": (lambda f: edited(f / "configs/metadata.json", lambda m: m.update(version="9")), "says version 9"),
    "no safetensors": (lambda f: (f / "models/first.safetensors").write_bytes(b"PK"), "no safetensors file"),
    "TorchScript": (lambda f: (f / "models/model.ts").write_bytes(b""), "models/model.ts: is a file of a kind that runs code"),
    "a pickle": (lambda f: (f / "docs/table.PKL").write_bytes(b""), "docs/table.PKL: is a file of a kind that runs code"),
    "a large file that is not listed": (
        lambda f: (f / "large_files.yml").write_text("large_files: []\n") and listed_large(f),
        "lists other files or hashes",
    ),
}


def listed_large(folder: Path) -> None:
    edited(
        folder / "manifest.json",
        lambda values: next(f for f in values["files"] if f["path"].endswith("model.pt")).update(large=True),
    )


@pytest.mark.parametrize("case", SPOILT)
def test_what_is_wrong_in_itself_is_refused_whatever_the_manifest_says(folder: Path, case: str) -> None:
    """Somebody changed a file and wrote the manifest anew."""
    change, message = SPOILT[case]
    change(folder)
    listed_anew(folder)
    assert_refused(run(folder), message)


def test_absent_weights_do_not_spare_the_others(folder: Path) -> None:
    """The trunk is left out, as is allowed; a model.pt that is there is looked at all the same."""
    manifest, name = folder / "manifest.json", "models/trunk.safetensors"
    trunk = next(entry for entry in json.loads(manifest.read_text())["files"] if entry["path"] == name)
    (folder / name).unlink()

    def left_out(values: dict[str, Any]) -> None:
        values["files"].append({**trunk, "large": True})

    place = f"- path: {name}\n  url: https://example.org/trunk\n  hash_val: '{trunk['sha256']}'\n  hash_type: sha256\n"
    (folder / "large_files.yml").write_text(f"large_files:\n{place}")
    listed_anew(folder, left_out)
    assert run(folder, "--allow-absent-large").exit_code == 0
    torch.save(Evil(), folder / "models" / "model.pt")
    listed_anew(folder, left_out)
    assert_refused(run(folder, "--allow-absent-large"), "models/model.pt: refused, for it is no plain state dict")


def test_only_weights_may_be_absent(folder: Path) -> None:
    """Code that is not there could not be judged, and comes later."""
    name = "custom_components/errors.py"
    edited(folder / "manifest.json", lambda v: next(f for f in v["files"] if f["path"] == name).update(large=True))
    (folder / name).unlink()
    assert_refused(run(folder, "--allow-absent-large"), f"'{name}' is large and may be absent; only models/*.safetensors")


class Evil:
    """Unpickling it runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("raise SystemExit('it was run')",)


def test_a_manifest_that_names_another_trunk_or_domain(folder: Path) -> None:
    listed_anew(folder, lambda values: values.update(trunk="0" * 64))
    assert_refused(run(folder), "the manifest says 0000")


POPEN = "subprocess.Popen"
"""A plain string: LoadImaged takes it for the class that reads images, and calls it with the image's name."""


def copied(source: Path, target: Path) -> Path:
    target.parent.mkdir(exist_ok=True)
    return Path(shutil.copy(source, target))


FOREIGN: dict[str, tuple[Callable[[Path], object], str]] = {
    "an expression": (
        lambda f: edited(f / "configs/inference.json", lambda c: c["run"].append("$__import__('os').getpid()")),
        "configs/inference.json, run#2: \"$__import__('os').getpid()\" is no expression of this project's template",
    ),
    "a target": (
        lambda f: edited(f / "configs/evaluate.json", lambda c: c.update(more={"_target_": "subprocess.run", "args": "ls"})),
        "configs/evaluate.json, more#_target_: 'subprocess.run' is no expression",
    ),
    "a macro": (
        lambda f: edited(f / "configs/train.json", lambda c: c.update(fold="%/etc/passwd")),
        "configs/train.json, fold: '%/etc/passwd' is no expression",
    ),
    "an expression in the metadata": (
        lambda f: edited(f / "configs/metadata.json", lambda c: c.update(task="$exit()")),
        "configs/metadata.json, task: '$exit()' is no expression",
    ),
    "a target under a path with colons": (
        lambda f: edited(f / "configs/inference.json", lambda c: c.update({"more::_target_": "subprocess.Popen"})),
        "configs/inference.json, more::_target_: 'subprocess.Popen' is no expression",
    ),
    "a target under a path": (
        lambda f: edited(f / "configs/train.json", lambda c: c["loss"].update({"loss#_target_": "subprocess.Popen"})),
        "loss#_target_: 'subprocess.Popen' is no expression",
    ),
    "a target that is added": (
        lambda f: edited(f / "configs/train.json", lambda c: c.update({"+_target_": "subprocess.Popen"})),
        "+_target_: 'subprocess.Popen' is no expression",
    ),
    "a path that changes another part": (
        lambda f: edited(f / "configs/adapt.json", lambda c: c.update({"train#handlers#0#reader": "subprocess.Popen"})),
        "the key 'train#handlers#0#reader' changes another part",
    ),
    "a path with colons": (
        lambda f: edited(f / "configs/adapt.json", lambda c: c.update({"network_def::trunk": "x"})),
        "the key 'network_def::trunk' changes another part",
    ),
    "an addition": (
        lambda f: edited(f / "configs/adapt.json", lambda c: c.update({"+run": ["x"]})),
        "the key '+run' changes another part",
    ),
    "another package to install": (
        lambda f: (f / "requirements.txt").write_text((f / "requirements.txt").read_text() + "monai-fast==1.0\n"),
        "requirements.txt: is not this project's",
    ),
    "another command in the README": (
        lambda f: (f / "README.md").write_text((f / "README.md").read_text().replace("-r small_universal/", "-r evil/")),
        "README.md: is not what this project writes",
    ),
    "a chapter in the metadata": (
        lambda f: edited(f / "configs/metadata.json", lambda c: c.update(description="x\n\n## First\n    pip install x")),
        "README.md: is not what this project writes",
    ),
    "a reader that is called": (
        lambda f: edited(f / "configs/inference.json", lambda c: c["preprocessing"]["transforms"][0].update(reader=POPEN)),
        "differ from what this project's universal_segmentation has: configs/inference.json",
    ),
    "a value of the project's own training": (
        lambda f: edited(f / "configs/train.json", lambda c: c.update(resume=1)),
        "differ from what this project's universal_segmentation has: configs/train.json",
    ),
    "a call where folders belong": (
        lambda f: edited(f / "configs/train.json", lambda c: c.update(dataset_dirs={"_target_": "LoadImaged", "reader": POPEN})),
        "differ from what this project's universal_segmentation has: configs/train.json",
    ),
    "a call in the metadata": (
        lambda f: edited(f / "configs/metadata.json", lambda c: c.update(task={"_target_": "LoadImaged", "reader": POPEN})),
        "configs/metadata.json: has keys that MONAI takes for more",
    ),
    "a configuration more": (
        lambda f: edited(copied(f / "configs/inference.json", f / "configs/more.json"), lambda c: c.update(amp=False)),
        "could not be compared, for this project has no such configurations: configs/more.json",
    ),
    "a configuration more in a folder": (
        lambda f: edited(copied(f / "configs/inference.json", f / "configs/domains/more/more.json"), lambda c: c.update(a=0)),
        "could not be compared, for this project has no such configurations: configs/domains/more/more.json",
    ),
    "logging": (lambda f: (f / "configs/logging.conf").write_text("[loggers]"), "configs/logging.conf: is not this project's"),
    "a YAML configuration": (lambda f: (f / "configs/more.yaml").write_text("a: 1"), "configs/more.yaml: is not this project's"),
    "a module in the root": (lambda f: (f / "torch.py").write_text(""), "code that is not this project's"),
    "a library": (lambda f: (f / "custom_components/fast.so").write_bytes(b""), "custom_components/fast.so"),
    "changed code": (
        lambda f: (f / "custom_components/errors.py").write_text("x = 1"),
        "code that differs from this project's (version 0.2.0): custom_components/errors.py",
    ),
    "a changed program": (lambda f: (f / "segment.py").write_text(""), "segment.py"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_code_that_is_not_the_projects_is_named_and_can_be_refused(folder: Path, case: str) -> None:
    change, message = FOREIGN[case]
    change(folder)
    listed_anew(folder)
    result = run(folder)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stderr.splitlines() if line.startswith("note: ") and message in line], result.stderr
    assert_refused(run(folder, "--only-known-code"), message)


def test_values_that_the_template_does_not_give_are_named(hippocampus_zip: Path, tmp_path: Path) -> None:
    """No code, but other results: voxels of another size."""
    assert run(hippocampus_zip, "--unpack", tmp_path).exit_code == 0
    folder = tmp_path / "hippocampus_mri_segmentation"
    edited(folder / "configs/inference.json", lambda c: c["inferer"].update(overlap=0.0))
    listed_anew(folder)
    result = run(folder)
    assert result.exit_code == 0
    assert "note: differ from what this project's template gives: configs/inference.json" in result.stderr
    assert_refused(run(folder, "--only-known-code"), "configs/inference.json")


def test_values_that_cannot_be_compared_are_named(hippocampus_zip: Path, tmp_path: Path) -> None:
    """Somebody leaves out what the configurations are made from, or adds one that the template does not have."""
    assert run(hippocampus_zip, "--unpack", tmp_path).exit_code == 0
    folder = tmp_path / "hippocampus_mri_segmentation"
    edited(copied(folder / "configs/inference.json", folder / "configs/more.json"), lambda c: c.update(amp=False))
    listed_anew(folder)
    assert run(folder).exit_code == 0
    assert_refused(run(folder, "--only-known-code"), "for this project has no such configurations: configs/more.json")
    (folder / "configs/more.json").unlink()
    (folder / "docs/facts.json").unlink()
    edited(folder / "configs/inference.json", lambda c: c["preprocessing"]["transforms"][0].update(reader=POPEN))
    listed_anew(folder)
    result = run(folder)
    assert result.exit_code == 0 and "note: values of configurations could not be compared: docs/facts.json" in result.stderr
    assert_refused(run(folder, "--only-known-code"), "docs/facts.json, from which they are made, is not in the bundle")


def test_which_domains_and_where_their_images_are_is_the_bundles_own(folder: Path) -> None:
    names = {"first": "/data/one", "second": "$@dataset_dir + '/Task04_Hippocampus'"}
    edited(folder / "configs/train.json", lambda c: c.update(domains=list(names), dataset_dirs=names, dataset_dir="/images"))
    edited(folder / "configs/inference.json", lambda c: c.update(domain_name="first", dataset_dir="/data/one"))
    listed_anew(folder)
    result = run(folder, "--only-known-code")
    assert result.exit_code == 0, result.output


def test_a_bundle_of_many_where_the_projects_own_is_not_at_hand(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the package alone is installed: what the template does not give could not be compared."""
    monkeypatch.setattr(known_values, "PROJECT", folder.parent)
    result = run(folder)
    assert result.exit_code == 0
    line = next(line for line in result.stderr.splitlines() if "could not be compared" in line)
    assert "configs/train.json" in line and "inference.json" not in line
    assert_refused(run(folder, "--only-known-code"), "could not be compared")


def zipped(folder: Path, path: Path, base: str) -> Path:
    write_archive(path, base, {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()})
    return path


def test_a_bad_zip_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    flipped(folder / "models" / "trunk.safetensors")
    bad = zipped(folder, tmp_path / "bad.zip", folder.name)
    result = run(bad, "--unpack", tmp_path / "out")
    assert_refused(result, f"{bad}, {folder.name}/models/trunk.safetensors: was changed")
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    assert_refused(run(bad, "--unpack", tmp_path / "mine"), "was changed")
    assert list((tmp_path / "mine").iterdir()) == []  # a folder that was there stays
    flipped(folder / "models" / "trunk.safetensors")
    assert_refused(run(zipped(folder, tmp_path / "other.zip", "other")), "its manifest says small_universal")
    bad.write_bytes(b"no zip")
    assert_refused(run(bad), "no zip")
    assert_refused(run(tmp_path / "absent.zip"), "no such file")


def test_signatures(universal: Path, tmp_path: Path) -> None:
    for name in ("own", "other"):
        make_keys(tmp_path / f"{name}.pem")
    arguments = [str(universal), "--output-dir", str(tmp_path), "--weights-licence", "x", "--sign", str(tmp_path / "own.pem")]
    made = CliRunner().invoke(package, arguments)
    assert made.exit_code == 0 and "signed by key" in made.stdout, made.output
    path = next(tmp_path.glob("*.zip"))
    good = run(path, "--public-key", tmp_path / "own.pub.pem", "--unpack", tmp_path)
    assert good.exit_code == 0 and "signed by key" in good.stdout and "note" not in good.stderr
    assert_refused(run(path, "--public-key", tmp_path / "other.pub.pem"), "another key signed")
    assert_refused(run(path, "--public-key", tmp_path / "own.pem"), "is a private key")
    assert_refused(run(path, "--public-key", path), "larger than a key")
    assert_refused(run(path, "--signature", path), "give --public-key, too")
    folder = tmp_path / "small_universal"
    (folder / "docs" / "README.md").write_text("changed")
    listed_anew(folder)
    assert run(folder).exit_code == 0  # whole, but not as it was signed
    assert_refused(run(folder, "--public-key", tmp_path / "own.pub.pem"), "the bundle was changed")
    (folder / "manifest.json.sig").write_bytes(b"short")
    assert_refused(run(folder, "--public-key", tmp_path / "own.pub.pem"), "a signature has 64")
    (folder / "manifest.json.sig").unlink()
    assert_refused(run(folder, "--public-key", tmp_path / "own.pub.pem"), "is not signed")


def test_a_signature_beside_the_zip_is_unpacked_with_it(universal: Path, tmp_path: Path) -> None:
    """So that segment.py --trusted-only --public-key finds it; another's in the zip gives way."""
    private, public = make_keys(tmp_path / "own.pem")
    other, _ = make_keys(tmp_path / "other.pem")
    path = package_bundle(universal, tmp_path, weights_licence="x", sign=read_private_key(other)).path
    with zipfile.ZipFile(path) as archive:
        manifest = archive.read("small_universal/manifest.json")
    signature = tmp_path / "own.sig"
    signature.write_bytes(read_private_key(private).sign(manifest))
    result = run(path, "--public-key", public, "--signature", signature, "--unpack", tmp_path / "out")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "out" / "small_universal"
    assert (folder / "manifest.json.sig").read_bytes() == signature.read_bytes()
    assert run(folder, "--public-key", public).exit_code == 0
    assert check_trusted(folder, ["first"], public)["signed_by"] == key_id(read_public_key(public))
    signature.write_bytes(bytes(64))
    assert_refused(run(path, "--public-key", public, "--signature", signature, "--unpack", tmp_path / "no"), "no signature of")
    assert not (tmp_path / "no").exists()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_makes_and_checks_the_same_keys_and_signatures(folder: Path, tmp_path: Path) -> None:
    """An offline machine needs nothing of this project to sign; nor does a receiver to check."""

    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    manifest, signature, key, public = folder / "manifest.json", tmp_path / "own.sig", tmp_path / "key.pem", tmp_path / "pub.pem"
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    openssl("pkeyutl", "-sign", "-inkey", key, "-rawin", "-in", manifest, "-out", signature)
    assert run(folder, "--public-key", public, "--signature", signature).exit_code == 0
    assert read_private_key(key).sign(manifest.read_bytes()) == signature.read_bytes()
    private, own = make_keys(tmp_path / "ours.pem")
    signature.write_bytes(read_private_key(private).sign(manifest.read_bytes()))
    openssl("pkeyutl", "-verify", "-pubin", "-inkey", own, "-rawin", "-in", manifest, "-sigfile", signature)


def test_the_report_says_what_is_wrong(folder: Path, tmp_path: Path) -> None:
    flipped(folder / "LICENSE")
    result = run(folder, "--report", tmp_path / "report.json")
    assert_refused(result, "LICENSE: was changed")
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "refused" and len(report["errors"]) == 1
    assert report["name"] == "small_universal" and set(report["domains"]) == {"first", "second"}
    assert_refused(run(folder, "--report", folder / "LICENSE" / "report.json"), "choose another output folder")


def test_whatever_is_verified_loads_with_torchs_restricted_reader(folder: Path) -> None:
    assert verify_folder(folder).verified
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())


def test_packaging_what_was_unpacked_gives_the_same_weights(folder: Path, universal_package: Package, tmp_path: Path) -> None:
    again = package_bundle(folder, tmp_path / "again", weights_licence="CC0-1.0").manifest
    before = universal_package.manifest
    assert (again.trunk, again.domains) == (before.trunk, before.domains)
    assert {p: e for p, e in again.by_path.items() if p.startswith("models/")} == {
        p: e for p, e in before.by_path.items() if p.startswith("models/")
    }
