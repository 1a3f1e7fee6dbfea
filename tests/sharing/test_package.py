"""A packaged bundle: the same bytes each time, complete, and taken by MONAI's own commands."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import re
import shutil
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import download, download_large_files, load
from typer.testing import CliRunner

from custom_components.archives.archive import unpacked
from custom_components.bundles.facts import UNKNOWN
from custom_components.errors import InputError
from custom_components.sharing import package as module
from custom_components.sharing.manifest import parse_manifest
from custom_components.sharing.package import Package, package_bundle
from custom_components.sharing.verify import verify_folder
from custom_components.weights import load_network
from custom_components.weights.notes import bundle_licence
from scripts.package_bundle import app
from tests.sharing.bundles import ROOT


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address at which this machine serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.fixture
def copied(universal: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(universal, tmp_path / "copy" / universal.name))


def test_equal_input_gives_equal_bytes(universal_package: Package, copied: Path, tmp_path: Path) -> None:
    (copied / "configs" / "train.json").touch()
    (copied / "LICENSE").chmod(0o755)
    again = package_bundle(copied, tmp_path / "again", weights_licence="CC0-1.0").path
    assert again.name == universal_package.path.name == "small_universal_v0.2.0.zip"
    # The copy lies outside the repository: so does the fixture's bundle, and the commit is that of the code.
    assert again.read_bytes() == universal_package.path.read_bytes()


def test_it_holds_what_a_receiver_needs_and_no_more(copied: Path, tmp_path: Path, bundle: Path) -> None:
    """What training and running leave behind stays at home."""
    for name in ("models/last.pt", "models/before_training/model.pt", "models/removed/old.safetensors", "eval/scores.json"):
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_bytes(b"private")
    for name in ("configs/.hidden.json", "notes.txt"):
        (copied / name).write_text("private")
    made = package_bundle(copied, tmp_path / "out", weights_licence="CC0-1.0")
    with zipfile.ZipFile(made.path) as archive:
        content = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    package = ROOT / "custom_components"
    code = {f"custom_components/{path.relative_to(package).as_posix()}" for path in package.rglob("*.py")}
    data = {"custom_components/data/fold_splits.json", "custom_components/py.typed", "custom_components/bundles/template/LICENSE"}
    needed = {
        "LICENSE",
        "README.md",
        "requirements.txt",
        "segment.py",
        "manifest.json",
        "docs/README.md",
        "docs/data_license.txt",
    }
    weights = {"models/trunk.safetensors", "models/first.safetensors", "models/second.safetensors", "models/model.pt"}
    assert code | data | needed | weights | {"configs/domains/first.json"} <= set(content)
    assert {name for name in content if name.startswith("models/")} == weights
    assert {name.split("/")[0] for name in content} == {
        *("configs", "docs", "models", "custom_components"),
        *("LICENSE", "README.md", "requirements.txt", "segment.py", "manifest.json"),
    }
    assert not [name for name, text in content.items() if text == b"private" or "__pycache__" in name or "/." in name]
    assert set(content) - {"manifest.json"} == set(made.manifest.by_path)
    for name, entry in made.manifest.by_path.items():
        assert entry.sha256 == hashlib.sha256(content[name]).hexdigest() and entry.size == len(content[name])
    assert parse_manifest(content["manifest.json"]) == made.manifest
    assert re.search(rb"^torch==[\d.]+$", content["requirements.txt"], flags=re.MULTILINE)
    assert b"cryptography==" in content["requirements.txt"]
    assert b"{{" not in content["README.md"]


def test_the_manifest_says_what_the_bundle_is(hippocampus_zip: Path, bundle: Path) -> None:
    with zipfile.ZipFile(hippocampus_zip) as archive:
        manifest = parse_manifest(archive.read("hippocampus_mri_segmentation/manifest.json"))
    network = load_network(bundle / "models")
    assert manifest.trunk == network.trunk_fingerprint()
    assert [domain.name for domain in manifest.domains] == ["hippocampus_mri"]
    assert manifest.domains[0].classes == ("anterior", "posterior")
    assert manifest.licence.weights == "CC-BY-SA 4.0"
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert manifest.version == metadata["version"]
    assert manifest.provenance.packages["torch"] == metadata["pytorch_version"]
    assert re.search(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", manifest.to_bytes().decode()) is None  # no time of packaging


def test_monai_downloads_it_and_loads_its_network(
    hippocampus_zip: Path, served: tuple[Path, str], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    name = "hippocampus_mri_segmentation"
    shutil.copy(hippocampus_zip, folder)
    download(name=name, url=f"{address}/{hippocampus_zip.name}", bundle_dir=tmp_path / "taken", progress=False)
    assert verify_folder(tmp_path / "taken" / name).verified
    monkeypatch.chdir(tmp_path / "taken" / name)
    expected = load_network(bundle / "models").state_dict()
    for workflow in ("train", "inference"):
        network = load(name, bundle_dir=tmp_path / "taken", workflow_type=workflow, device="cpu")
        assert network.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())


def test_large_weights_are_listed_and_monai_fetches_them(
    copied: Path, served: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, address = served
    large = (copied / "models" / "model.pt").stat().st_size - 1
    monkeypatch.setattr(module, "LARGE", large)
    with pytest.raises(InputError, match=r"model.pt: has .* --large-files-url"):
        package_bundle(copied, tmp_path / "out", weights_licence="CC0-1.0")
    made = package_bundle(copied, tmp_path / "out", weights_licence="CC0-1.0", large_files_url=address, leave_out_large=True)
    assert made.left_out == ("models/model.pt",)
    with unpacked(made.path, tmp_path / "unpacked") as found:
        assert not (found / "models" / "model.pt").exists()
        refused = verify_folder(found)
        assert not refused.verified and "--allow-absent-large" in refused.errors[0]
        allowed = verify_folder(found, absent_large=True)
        assert allowed.verified and allowed.absent == ["models/model.pt"]
        assert any("absent" in note and "models/model.pt" in note for note in allowed.notes)
        (found / "LICENSE").unlink()  # only what is large may be absent
        assert not verify_folder(found, absent_large=True).verified
        shutil.copy(copied / "LICENSE", found)
        shutil.copy(copied / "models" / "model.pt", folder)
        download_large_files(bundle_path=str(found))
        assert verify_folder(found).verified
        (found / "models" / "model.pt").write_bytes(b"other")
        assert not verify_folder(found, absent_large=True).verified


def test_a_list_of_large_files_that_is_there_is_checked(copied: Path, tmp_path: Path) -> None:
    path, out = copied / "large_files.yml", tmp_path / "out"
    sha = hashlib.sha256((copied / "models" / "model.pt").read_bytes()).hexdigest()
    text = "large_files:\n- path: models/model.pt\n  url: https://example.org/model.pt\n  hash_val: '{}'\n  hash_type: sha256\n"
    path.write_text(text.format(sha))
    assert package_bundle(copied, out, weights_licence="x").manifest.by_path["models/model.pt"].large
    for spoilt, message in (
        (text.format("0" * 64), "another SHA-256"),
        (text.format(sha).replace("model.pt\n  url", "gone.safetensors\n  url"), "missing"),
        (text.format(sha).replace("models/model.pt\n", "segment.py\n"), "'segment.py' is large"),
        (text.format(sha).replace("sha256", "md5"), "hash_type"),
        (text.format(sha).replace("models/", "../"), "is large"),
        (text.format(sha).replace("https://", "file://"), "url"),
        ("large_files: 3", "one list"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML"),
        ("a: [", "not valid YAML"),
    ):
        path.write_text(spoilt)
        with pytest.raises(InputError, match=message):
            package_bundle(copied, tmp_path / "other", weights_licence="x")
    assert not (tmp_path / "other").exists()


def test_a_bundle_that_is_not_complete_is_refused_and_nothing_is_written(copied: Path, tmp_path: Path, runner: CliRunner) -> None:
    without = ["LICENSE", "docs/data_license.txt", "models/trunk.safetensors", "models/model.pt", "configs/domains/first.json"]
    for name in without:
        data = (copied / name).read_bytes()
        (copied / name).unlink()
        result = runner.invoke(app, [str(copied), "--output-dir", str(tmp_path / "out"), "--weights-licence", "x"])
        assert result.exit_code == 1, name
        assert len([line for line in result.stderr.splitlines() if line.startswith("Error: ")]) == 1
        assert Path(name).name in result.stderr or "first" in result.stderr
        (copied / name).write_bytes(data)
    result = runner.invoke(app, [str(copied), "--output-dir", str(tmp_path / "out")])
    assert result.exit_code == 1 and "--weights-licence" in result.stderr
    result = runner.invoke(app, [str(ROOT / "bundles" / "spleen_ct_segmentation"), "--output-dir", str(tmp_path / "out")])
    assert result.exit_code == 1 and "only a bundle with trained weights" in result.stderr
    torch.save({"weight": torch.zeros(2)}, copied / "models" / "model.pt")
    result = runner.invoke(app, [str(copied), "--output-dir", str(tmp_path / "out"), "--weights-licence", "x"])
    assert result.exit_code == 1 and f"{copied}/models/model.pt: has other parameters" in result.stderr
    (copied / "docs" / "link.md").symlink_to(copied / "LICENSE")
    result = runner.invoke(app, [str(copied), "--output-dir", str(tmp_path / "out"), "--weights-licence", "x"])
    assert result.exit_code == 1 and "is a link" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_licence_of_adapters_that_agree_is_taken(copied: Path, tmp_path: Path) -> None:
    from custom_components.weights import save_bundle_weights

    network = load_network(copied / "models")
    save_bundle_weights(network, copied / "models", {name: {"licence": "CC-BY 4.0"} for name in network.domains})
    assert package_bundle(copied, tmp_path / "out").manifest.licence.weights == "CC-BY 4.0"
    save_bundle_weights(network, copied / "models", {"first": {"licence": "CC0-1.0"}})
    with pytest.raises(InputError, match="--weights-licence"):
        package_bundle(copied, tmp_path / "out")


@pytest.mark.parametrize("data", [{"licence": UNKNOWN}, {"licence": None}, {"licence": 4}, {"licence": " "}, {}, "CC0-1.0"])
def test_a_licence_that_the_facts_do_not_say_is_asked_for(copied: Path, tmp_path: Path, data: Any) -> None:
    (copied / "docs" / "facts.json").write_text(json.dumps({"data": data}))
    with pytest.raises(InputError, match="--weights-licence"):
        package_bundle(copied, tmp_path / "out")
    assert bundle_licence(copied) is None
    assert package_bundle(copied, tmp_path / "out", weights_licence="CC0-1.0").manifest.licence.weights == "CC0-1.0"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_what_is_not_in_the_commit_counts_as_modified(universal: Path, tmp_path: Path) -> None:
    """Files that git ignores, and a bundle that lies elsewhere, too: a commit says nothing of them."""
    root = tmp_path / "project"
    bundle = Path(shutil.copytree(universal, root / "bundles" / universal.name))
    (root / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "segment.py", root / "scripts")
    shutil.copy(ROOT / "requirements.txt", root)
    (root / ".gitignore").write_text("*.local.json\n")

    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false")
        return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout.strip()

    def modified(folder: Path) -> bool | None:
        made = package_bundle(folder, tmp_path / "out", weights_licence="CC0-1.0", root=root).manifest.provenance
        assert made.commit == git("rev-parse", "HEAD")
        return made.modified

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    assert modified(bundle) is False
    (bundle / "configs" / "my.local.json").write_text("{}")
    assert git("status", "--porcelain") == "" and modified(bundle) is True
    (bundle / "configs" / "my.local.json").unlink()
    assert modified(bundle) is False
    assert modified(universal) is True  # not of this checkout
    (bundle / "LICENSE").write_text("mine")
    assert modified(bundle) is True


def test_the_command_says_what_it_made(copied: Path, tmp_path: Path, runner: CliRunner) -> None:
    (copied / "configs" / "train.json").write_text('{"run": "$print(1)"}')
    result = runner.invoke(app, [str(copied), "--output-dir", str(tmp_path), "--weights-licence", "CC0-1.0"])
    assert result.exit_code == 0, result.output
    assert "small_universal_v0.2.0.zip" in result.stdout and "not signed" in result.stdout
    assert "first, second; weights CC0-1.0; trunk " in result.stdout
    assert "configs/train.json, run: '$print(1)' is no expression of this project's template" in result.stderr
