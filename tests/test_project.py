"""What holds for the repository as a whole."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from custom_components import __version__
from custom_components.inference import bundle_domains

ROOT = Path(__file__).parents[1]
BUNDLES = sorted(p for p in (ROOT / "bundles").iterdir() if p.is_dir())
LISTS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
TEXT = {".py", ".json", ".md", ".txt", ".toml", ".sh", ".conf", ".cfg", ".yml", ".yaml", ".csv", ""}


def tracked() -> list[Path]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [path for name in result.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def test_no_tracked_file_names_a_place_on_somebodys_machine() -> None:
    place = re.compile(r"(?<![\w.])/(?:work|root|home|Users|mnt)/\w+")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked()
        if path.suffix in TEXT and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert found == []


def test_no_tracked_file_is_large() -> None:
    large = [f"{path.relative_to(ROOT)}: {path.stat().st_size}" for path in tracked() if path.stat().st_size > 8 * 2**20]
    assert large == []


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert newest is not None
    assert project["version"] == newest.group(1) == __version__


def test_requirements_are_exact_and_cover_the_package() -> None:
    """Every dependency of the package is pinned, and no list names where to download from."""
    pinned = set()
    for name in LISTS:
        for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
            line = line.split("#")[0].strip()
            if line:
                assert re.fullmatch(r"[\w-]+==[\w.]+( ;.*)?", line), line
                pinned.add(line.split("==")[0])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"], *project["optional-dependencies"]["onnx"]]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in needed} - {project["name"]}
    assert names - pinned == set()


def test_the_label_environment_tests_with_the_versions_of_the_others() -> None:
    names = ("requirements-label-test.txt", "requirements-test.txt")
    lines = [set((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in names]
    assert {line for line in lines[0] if "==" in line} <= lines[1]


def test_every_import_is_of_a_required_package() -> None:
    """What comes only as somebody else's dependency may go with their next release."""
    required = {line.split("==")[0].lower() for name in LISTS for line in (ROOT / name).read_text(encoding="utf-8").splitlines()}
    providers = packages_distributions()
    found = set()
    for path in [*ROOT.glob("custom_components/**/*.py"), *ROOT.glob("scripts/*.py"), *ROOT.glob("tests/**/*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {name.split(".")[0] for name in names} - set(sys.stdlib_module_names):
                distributions = {name.lower() for name in providers.get(top, [])}
                if distributions and not distributions & (required | {"u2net-monai"}):
                    found.add(f"{path.relative_to(ROOT)}: {top}")
    assert sorted(found) == []


def test_importing_the_package_is_light() -> None:
    """A domain description can be read without torch, and weights without drawing or logging packages."""
    code = (
        "import sys, custom_components, custom_components.errors, custom_components.domain\n"
        "assert not {'torch', 'monai', 'numpy'} & set(sys.modules), 'domain'\n"
        "import custom_components.weights, custom_components.networks\n"
        "heavy = {'matplotlib', 'tensorboard', 'nilearn', 'ignite', 'cupy', 'itk'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def has_weights(bundle: Path) -> bool:
    """Whether trained weights are part of a bundle: its facts or its metadata say so."""
    facts = bundle / "docs" / "facts.json"
    if facts.is_file():
        return bool(json.loads(facts.read_text(encoding="utf-8")).get("weights"))
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    return "no trained weights" not in metadata["description"]


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda p: p.name)
def test_bundle_is_complete(bundle: Path) -> None:
    needed = [
        "LICENSE",
        "configs/metadata.json",
        "configs/inference.json",
        "configs/train.json",
        "configs/evaluate.json",
        "configs/multi_gpu_train.json",
        "configs/logging.conf",
        "docs/README.md",
        "docs/data_license.txt",
    ]
    names = list(bundle_domains(bundle))
    if has_weights(bundle):
        needed += ["models/model.pt", "models/trunk.safetensors", *(f"models/{name}.safetensors" for name in names)]
        needed += ["docs/results.json"] if len(names) == 1 else []
    assert [name for name in needed if not (bundle / name).is_file()] == []
    assert (bundle / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("bundle", filter(has_weights, BUNDLES), ids=lambda p: p.name)
def test_both_forms_of_the_weights_are_the_same_network(bundle: Path) -> None:
    from custom_components.networks import fingerprint
    from custom_components.weights import load_network, read_tensors

    network = load_network(bundle / "models")
    assert set(network.domains) == set(bundle_domains(bundle))
    assert fingerprint(network.state_dict()) == fingerprint(read_tensors(bundle / "models" / "model.pt"))


def test_every_path_and_link_in_the_readmes_exists() -> None:
    missing = []
    for readme in [ROOT / "README.md", *ROOT.glob("bundles/*/docs/README.md")]:
        text = readme.read_text(encoding="utf-8")
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
        missing += [f"{readme.relative_to(ROOT)}: {link}" for link in links if not (readme.parent / link).exists()]
        paths = re.findall(r"(?<![\w/])(?:scripts|bundles|custom_components|tests)/[\w./-]*\w", text)
        missing += [f"{readme.relative_to(ROOT)}: {path}" for path in paths if not (ROOT / path).exists()]
    assert missing == []
