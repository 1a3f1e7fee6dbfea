"""Adapters move between bundles whole or not at all, and never disturb each other."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from custom_components.domain import Domain
from custom_components.errors import InputError
from custom_components.networks import U2Net, fingerprint
from custom_components.weights import WeightsError, load_network, load_state, save_bundle_weights
from custom_components.weights.bundle_changes import export_adapter, import_adapter, remove_adapter, replace_adapter
from custom_components.weights.bundle_files import check_bundle, description_path, find_domain, list_adapters
from tests.weights.bundles import bundle_of, domain

ROOT = Path(__file__).parents[2]
HEART, LIVER, KNEE = domain("heart_mri"), domain("liver_ct", 1, 3), domain("knee_mri", 2, 3)


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing tidies up after it."""


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.name[0] != "."}


def weights(bundle: Path) -> str:
    """Of the adapters and the trunk; model.pt must hold the same."""
    network = load_network(bundle / "models")
    empty = U2Net(**{**network.config, "domains": network.config["domains"]})
    assert fingerprint(load_state(empty, bundle / "models" / "model.pt").state_dict()) == fingerprint(network.state_dict())
    return fingerprint(network.state_dict())


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return bundle_of(tmp_path / "bundle", HEART, LIVER)


@pytest.fixture
def shared(tmp_path: Path, bundle: Path) -> Path:
    """The knee's adapter as a file, trained elsewhere on the bundle's trunk."""
    network = load_network(bundle / "models")
    network.add_domain(KNEE.name, KNEE.network)
    other = tmp_path / "other"
    save_bundle_weights(network, other / "models", {KNEE.name: {"description": KNEE, "licence": "CC0"}})
    return export_adapter(other, KNEE.name, tmp_path / "shared")


def test_import_then_remove_gives_the_bundle_that_was(bundle: Path, shared: Path) -> None:
    before, was = files(bundle), weights(bundle)
    assert import_adapter(shared, bundle) == bundle / "models" / "knee_mri.safetensors"
    grown = files(bundle)
    assert grown.keys() - before.keys() == {"models/knee_mri.safetensors", "configs/domains/knee_mri.json"}
    assert grown["models/knee_mri.safetensors"] == shared.read_bytes()
    assert find_domain(bundle, "knee_mri") == KNEE and check_bundle(bundle) == []
    licences = {adapter.header.domain: adapter.header.licence for adapter in list_adapters(bundle)}
    assert licences == {"heart_mri": None, "knee_mri": "CC0", "liver_ct": None}
    assert weights(bundle) != was
    assert {name: data for name, data in grown.items() if name in before and name != "models/model.pt"} == {
        name: data for name, data in before.items() if name != "models/model.pt"
    }

    copy = remove_adapter(bundle, "knee_mri")
    assert copy == bundle / "models" / "removed" / "knee_mri.safetensors" and copy.read_bytes() == shared.read_bytes()
    assert {name: data for name, data in files(bundle).items() if "removed" not in name} == before
    import_adapter(copy, bundle)
    assert {name: data for name, data in files(bundle).items() if "removed" not in name} == grown


def test_an_exported_file_is_enough(bundle: Path, tmp_path: Path) -> None:
    """The bundle's headers say nothing of the domain: the export takes the description from configs."""
    file = export_adapter(bundle, "liver_ct", tmp_path / "out", "CC-BY-SA 4.0")
    assert export_adapter(bundle, "liver_ct", tmp_path / "out") == file, "the same again is no clash"
    target = bundle_of(tmp_path / "target", HEART)  # of the same seed, but a trunk of its own
    with pytest.raises(WeightsError, match="was trained with trunk"):
        import_adapter(file, target)
    network = load_network(bundle / "models", HEART)
    save_bundle_weights(network, target / "models")
    import_adapter(file, target)
    assert find_domain(target, "liver_ct") == LIVER
    assert weights(target) == weights(bundle)
    # Imported once more, it says the same: the description stays as somebody wrote it.
    text = description_path(target, "liver_ct")
    text.write_text(json.dumps(json.loads(text.read_text())))
    before = text.read_bytes()
    import_adapter(file, target)
    assert text.read_bytes() == before


def test_a_file_without_description_needs_one(bundle: Path, shared: Path, tmp_path: Path) -> None:
    network = load_network(bundle / "models")
    network.add_domain(KNEE.name, KNEE.network)
    save_bundle_weights(network, tmp_path / "plain")
    plain = tmp_path / "plain" / "knee_mri.safetensors"
    before = files(bundle)
    with pytest.raises(WeightsError, match=r"no description in it; give the domain\.json"):
        import_adapter(plain, bundle)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(domain("knee_mri", 1, 3).to_json())
    with pytest.raises(WeightsError, match=r"in_channels is 2, but domain\.json says 1"):
        import_adapter(plain, bundle, wrong)
    assert files(bundle) == before
    (tmp_path / "right.json").write_text(KNEE.to_json())
    import_adapter(plain, bundle, tmp_path / "right.json")
    assert find_domain(bundle, "knee_mri") == KNEE


def test_what_cannot_be_imported_changes_nothing(bundle: Path, shared: Path, tmp_path: Path) -> None:
    def refused(message: str, file: Path, target: Path = bundle) -> None:
        before = files(target)
        with pytest.raises(InputError, match=message):
            import_adapter(file, target)
        assert files(target) == before

    refused(r"heart_mri\.safetensors: exists, the bundle has a domain 'heart_mri' already", shared_twin(bundle, tmp_path))
    stranger = bundle_of(tmp_path / "stranger", KNEE, seed=1, notes={KNEE.name: {"description": KNEE}})
    ours, theirs = (load_network(b / "models").trunk_fingerprint() for b in (bundle, stranger))
    refused(f"trunk {theirs}, but this trunk is {ours}", stranger / "models" / "knee_mri.safetensors")
    wide = tmp_path / "wide"
    save_bundle_weights(U2Net({KNEE.name: KNEE.network}, (2, 3, 5)), wide, {KNEE.name: {"description": KNEE}})
    refused(r"another architecture: channels \[2, 3, 5\] against \[2, 3, 4\]", wide / "knee_mri.safetensors")
    refused("no such file", tmp_path / "none.safetensors")
    refused("is no adapter file", bundle / "models" / "trunk.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(shared.read_bytes()[:-8])
    refused("damaged", tmp_path / "cut.safetensors")
    one_bit = bytearray(shared.read_bytes())
    one_bit[-1] ^= 1
    (tmp_path / "bit.safetensors").write_bytes(one_bit)
    refused("its tensors have fingerprint", tmp_path / "bit.safetensors")
    (bundle / "configs" / "domains" / "knee_mri.json").write_text(domain("knee_mri", 2, 3, organ="elbow").to_json())
    refused(r"knee_mri\.json: exists and differs", shared)
    (tmp_path / "single" / "configs").mkdir(parents=True)
    save_bundle_weights(load_network(bundle / "models", HEART), tmp_path / "single" / "models")
    refused("a bundle of one domain", shared, tmp_path / "single")
    refused("no folder 'models'", shared, tmp_path / "wide")


def shared_twin(bundle: Path, tmp_path: Path) -> Path:
    """Another adapter of a domain that the bundle has."""
    network = load_network(bundle / "models")
    with torch.no_grad():
        network.domains["heart_mri"]["output"].bias.add_(1)
    save_bundle_weights(network, tmp_path / "twin", {"heart_mri": {"description": HEART}})
    return tmp_path / "twin" / "heart_mri.safetensors"


def test_weights_that_diverged_are_not_imported(bundle: Path, shared: Path, tmp_path: Path) -> None:
    from custom_components.weights.bundle_files import describe_header
    from custom_components.weights.files import write_tensors

    tensors = load_file(shared)
    tensors["domains.knee_mri.output.bias"][0] = float("nan")
    header = describe_header(shared).model_copy(update={"sha256": fingerprint(tensors)})
    write_tensors(tmp_path / "nan.safetensors", tensors, header.to_json())
    before = files(bundle)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        import_adapter(tmp_path / "nan.safetensors", bundle)
    assert files(bundle) == before


def test_removals_that_are_refused(bundle: Path) -> None:
    with pytest.raises(WeightsError, match="has no domain 'knee_mri'; it has heart_mri, liver_ct"):
        remove_adapter(bundle, "knee_mri")
    remove_adapter(bundle, "liver_ct")
    before = files(bundle)
    with pytest.raises(WeightsError, match="is its only domain"):
        remove_adapter(bundle, "heart_mri")
    with pytest.raises(WeightsError, match="has no domain 'liver_ct'"):
        remove_adapter(bundle, "liver_ct")
    assert files(bundle) == before


def test_a_copy_is_not_replaced_by_another(bundle: Path, tmp_path: Path) -> None:
    twin = shared_twin(bundle, tmp_path)
    first = remove_adapter(bundle, "heart_mri")
    import_adapter(twin, bundle)
    second = remove_adapter(bundle, "heart_mri")
    assert first != second and second.parent == first.parent
    assert not torch.equal(*(load_file(p)["domains.heart_mri.output.bias"] for p in (first, second)))


def kill(monkeypatch: pytest.MonkeyPatch, call: str, number: int, action: Callable[[], object]) -> bool:
    """Run ``action`` and kill it at a given call of a function of ``os``; whether it came to that."""
    real, seen = getattr(os, call), 0

    def deadly(*arguments: object, **options: object) -> object:
        nonlocal seen
        seen += 1
        if seen >= number:  # nothing after it happens either: no clean-up
            raise Killed
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, deadly)
        if call == "replace":
            patch.setattr(Path, "unlink", lambda path, **_: None if path.name.startswith(".") else os.unlink(path))
        try:
            action()
        except Killed:
            return True
    return False


def each_kill(
    monkeypatch: pytest.MonkeyPatch, call: str, bundle: Path, place: Path, change: Callable[[Path], object]
) -> Iterator[tuple[Path, bool]]:
    """A copy of the bundle in ``place`` for each moment at which ``change`` can be killed, and last one where it ended."""
    for number in count(1):
        folder = place / f"{call}{number}"
        subprocess.run(["cp", "-r", bundle, folder], check=True)
        killed = kill(monkeypatch, call, number, partial(change, folder))
        yield folder, killed
        if not killed:
            return


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_an_import_that_is_killed_leaves_a_bundle_that_can_be_used(
    bundle: Path, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    old, x = load_network(bundle / "models"), torch.randn(1, 1, 4, 8, 8)
    was, before = weights(bundle), files(bundle)
    for folder, killed in each_kill(monkeypatch, call, bundle, tmp_path, partial(import_adapter, shared)):
        if not killed:
            break
        network = load_network(folder / "models")
        assert set(network.domains) in ({"heart_mri", "liver_ct"}, {"heart_mri", "liver_ct", "knee_mri"})
        with torch.inference_mode():
            assert torch.equal(network(x, "heart_mri"), old(x, "heart_mri"))
        # model.pt is the old one or the new one, and what remained is seen.
        assert (folder / "models" / "model.pt").read_bytes() == before["models/model.pt"]
        assert (files(folder) == before) == (check_bundle(folder) == [])
        import_adapter(shared, folder)
        assert check_bundle(folder) == [] and weights(folder) != was
    assert folder.name not in (f"{call}1", f"{call}2") and check_bundle(folder) == []


def test_a_removal_that_is_killed_is_completed_by_the_next(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = set()
    for call in ("replace", "unlink"):
        for folder, killed in each_kill(monkeypatch, call, bundle, tmp_path, partial(remove_adapter, name="liver_ct")):
            if not killed:
                break
            states.add(tuple(name for name in files(folder) if "liver" in name))
            assert "heart_mri" in load_network(folder / "models").domains
            if check_bundle(folder) or "liver_ct" in load_network(folder / "models").domains:  # not killed at the very end
                remove_adapter(folder, "liver_ct")
            assert check_bundle(folder) == [] and set(load_network(folder / "models").domains) == {"heart_mri"}
            assert (folder / "models" / "removed" / "liver_ct.safetensors").is_file()
    assert len(states) > 2


@pytest.fixture(params=["same description", "another shape", "another shape, earlier one undescribed"])
def later(request: pytest.FixtureRequest, bundle: Path, shared: Path, tmp_path: Path) -> Path:
    """The bundle has the knee already, and this is the file that shall replace it; weights differ, and the shape may."""
    import_adapter(shared, bundle)
    described = domain("knee_mri", 1, 4) if "another shape" in request.param else KNEE
    if "undescribed" in request.param:
        network = load_network(bundle / "models")
        (bundle / "models" / "knee_mri.safetensors").unlink()
        save_bundle_weights(network, bundle / "models")
    network = load_network(bundle / "models", HEART)
    torch.manual_seed(11)
    network.add_domain("knee_mri", described.network)
    save_bundle_weights(network, tmp_path / "later", {"knee_mri": {"description": described}})
    return tmp_path / "later" / "knee_mri.safetensors"


def test_a_replacement_is_in_the_earlier_ones_place(bundle: Path, later: Path) -> None:
    before, earlier = files(bundle), load_file(bundle / "models" / "knee_mri.safetensors")
    target = replace_adapter(later, bundle)
    assert fingerprint(load_file(bundle / "models" / "removed" / "knee_mri.safetensors")) == fingerprint(earlier)
    assert target == bundle / "models" / "knee_mri.safetensors" and target.read_bytes() == later.read_bytes()
    assert check_bundle(bundle) == [] and weights(bundle)
    changed = {name for name, data in files(bundle).items() if before.get(name) != data}
    own = {"models/knee_mri.safetensors", "models/removed/knee_mri.safetensors", "models/model.pt"}
    assert own <= changed <= own | {"configs/domains/knee_mri.json"}
    now = files(bundle)
    replace_adapter(later, bundle)  # the same again
    assert files(bundle) == now
    remove_adapter(bundle, "knee_mri")
    replace_adapter(later, bundle)  # and where there is none
    assert {name: data for name, data in files(bundle).items() if "removed" not in name} == {
        name: data for name, data in now.items() if "removed" not in name
    }


@pytest.mark.parametrize("call", ["replace", "fsync", "unlink"])
def test_a_replacement_that_is_killed_leaves_the_earlier_or_the_later(
    bundle: Path, later: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    then, now = (fingerprint(load_file(path)) for path in (bundle / "models" / "knee_mri.safetensors", later))
    other, x = load_network(bundle / "models"), torch.randn(1, 1, 4, 8, 8)
    whole = (bundle / "models" / "model.pt").read_bytes()
    for folder, killed in each_kill(monkeypatch, call, bundle, tmp_path, partial(replace_adapter, later)):
        if not killed:
            break
        knee = {adapter.header.domain: adapter for adapter in list_adapters(folder)}["knee_mri"]
        assert knee.header.sha256 in (then, now) and knee.domain is not None
        network = load_network(folder / "models")
        with torch.inference_mode():
            assert torch.equal(network(x, "heart_mri"), other(x, "heart_mri"))
        assert (folder / "models" / "model.pt").read_bytes() == whole or check_bundle(folder) == []
        if knee.header.sha256 == now:
            (copy,) = (path for path in (folder / "models" / "removed").iterdir() if path.name[0] != ".")
            assert fingerprint(load_file(copy)) == then
        replace_adapter(later, folder)
        assert check_bundle(folder) == [] and fingerprint(load_file(folder / "models" / "knee_mri.safetensors")) == now
    assert folder.name not in (f"{call}1", f"{call}2") or call == "unlink"


def test_a_replacement_that_cannot_be_changes_nothing(
    bundle: Path, later: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: data for name, data in files(bundle).items() if name != "models/knee_mri.safetensors"}
    knee = fingerprint(load_file(bundle / "models" / "knee_mri.safetensors"))

    def unchanged() -> None:
        now = files(bundle)
        assert fingerprint(load_file(bundle / "models" / "knee_mri.safetensors")) == knee
        assert {name: now[name] for name in before} == before

    stranger = bundle_of(tmp_path / "stranger", KNEE, seed=1, notes={KNEE.name: {"description": KNEE}})
    with pytest.raises(WeightsError, match="was trained with trunk"):
        replace_adapter(stranger / "models" / "knee_mri.safetensors", bundle)
    unchanged()
    real, seen = os.fsync, []

    def full(*arguments: int) -> None:
        seen.append(arguments)
        if len(seen) > 2:
            raise OSError(28, "No space left on device")
        real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written"):
            replace_adapter(later, bundle)
    assert len(seen) == 3 and not list(bundle.rglob(".*"))
    unchanged()


def test_two_at_a_time_are_refused(bundle: Path, shared: Path) -> None:
    import fcntl

    handle = os.open(bundle / "models", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(WeightsError, match="another process changes it"):
            import_adapter(shared, bundle)
    finally:
        os.close(handle)


def test_a_folder_that_cannot_be_written(bundle: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(bundle)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="cannot be written"):
            import_adapter(shared, bundle)
    assert files(bundle) == before and not list(bundle.rglob(".*"))


def test_a_torch_word_is_no_name(bundle: Path, tmp_path: Path) -> None:
    """A name that the network refuses is refused before anything is written."""
    from custom_components.weights.bundle_files import describe_header
    from custom_components.weights.files import write_tensors

    path = bundle / "models" / "heart_mri.safetensors"
    named = Domain.from_dict({**HEART.model_dump(mode="json"), "name": "forward"})
    tensors = {key.replace("heart_mri", "forward"): value for key, value in load_file(path).items()}
    changed = {"domain": "forward", "sha256": fingerprint(tensors), "description": named.model_dump(mode="json")}
    write_tensors(tmp_path / "f.safetensors", tensors, {**describe_header(path).to_json(), **changed})
    before = files(bundle)
    with pytest.raises(WeightsError, match="torch keeps this word"):
        import_adapter(tmp_path / "f.safetensors", bundle)
    assert files(bundle) == before


def run(*arguments: object, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "adapters.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, input=stdin, env=environment, check=False)


def test_the_command(bundle: Path, shared: Path, tmp_path: Path) -> None:
    done = run("import", shared, "--bundle", bundle)
    assert done.returncode == 0, done.stderr
    done = run("list", bundle)
    assert done.returncode == 0, done.stderr
    knee = next(line for line in done.stdout.splitlines() if "knee_mri" in line)
    count = sum(t.numel() for t in load_file(shared).values())
    trunk = load_network(bundle / "models").trunk_fingerprint()[:12]
    assert trunk in done.stdout.splitlines()[0]
    assert knee.split()[:5] == ["knee_mri", "MR", "2", f"{count:,}", f"{shared.stat().st_size / 1024:,.0f}"]
    assert knee.split()[5:] == ["KiB", "CC0"]
    done = run("remove", bundle, "knee_mri", stdin="n\n")
    assert done.returncode == 1 and (bundle / "models" / "knee_mri.safetensors").is_file()
    done = run("remove", bundle, "knee_mri", "--yes")
    assert done.returncode == 0 and not (bundle / "models" / "knee_mri.safetensors").exists()
    (bundle / "models" / "model.pt").unlink()
    done = run("list", bundle)
    assert done.returncode == 1 and re.fullmatch(r"Error: .*model\.pt: no such file; .*\n", done.stderr)


def test_the_command_on_files(bundle: Path, shared: Path, tmp_path: Path) -> None:
    done = run("show", bundle, shared, "--json")
    assert done.returncode == 0, done.stderr
    import json

    facts = json.loads(done.stdout)
    assert (facts["domain"], facts["licence"], facts["description"]["organ"]) == ("knee_mri", "CC0", "knee")
    assert facts["trunk"] == load_network(bundle / "models").trunk_fingerprint()
    done = run("export", bundle, "spleen_ct", "--output-dir", tmp_path / "out")
    assert (done.returncode, done.stderr) == (1, f"Error: {bundle}: has no domain 'spleen_ct'; it has heart_mri, liver_ct\n")
    assert not (tmp_path / "out").exists()
    assert "scripts/adapters.py import" in run("--help").stdout
