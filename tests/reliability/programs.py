"""The programs that are killed, each on data that takes it a second or a few."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from custom_components.errors import InputError
from custom_components.networks import U2Net, fingerprint
from custom_components.weights import load_network, save_bundle_weights
from custom_components.weights.bundle_files import check_bundle
from tests.bundles.training_runs import SMALL, small_domain, workflow
from tests.phantoms import decathlon, hippocampus_like, save_nifti
from tests.reliability.killing import Program
from tests.weights.bundles import PLAN, bundle_of, domain, randomised

__all__ = ["PROGRAMS"]

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "bundles" / "hippocampus_mri_segmentation"


def script(name: str, *arguments: str) -> None:
    """A script's command, as a person gives it; raises where its exit code is not 0."""
    import importlib

    code = importlib.import_module(f"scripts.{name}").app(list(arguments), standalone_mode=False)
    if code:
        raise RuntimeError(f"{name}.py: exit code {code}")


# ---- segment.py: three images, one of which has a label already, of other weights or of the same

SEGMENTED = domain("organ_mri", patch_size=[8, 16, 16])


def _segment_files(folder: Path, first: str = "other") -> None:
    bundle_of(folder / "bundle", SEGMENTED)
    for index in range(3):
        save_nifti(folder / "images" / f"case_{index}.nii.gz", hippocampus_like((22, 24, 20), seed=index)[0])
    bundle_of(folder / "other", SEGMENTED, seed=1)
    os.chdir(folder)
    script("segment", "images/case_0.nii.gz", "--bundle", first, "--output-dir", "labels")


def _segmented_one(folder: Path) -> None:
    _segment_files(folder, "bundle")


def _segment(folder: Path, *more: str) -> None:
    os.chdir(folder)
    script("segment", "images", "--bundle", "bundle", "--output-dir", "labels", *more)


def _segment_anew(folder: Path) -> None:
    _segment(folder, "--overwrite", "--report", "report.json")


# ---- adapters.py


def _universal_files(folder: Path) -> None:
    alpha, beta = domain("alpha_mri"), domain("beta_ct", channels=2, classes=3)
    torch.manual_seed(0)
    network = randomised(U2Net({d.name: d.network for d in (alpha, beta)}, **PLAN))
    save_bundle_weights(network, folder / "whole", {"beta_ct": {"description": beta}})
    bundle_of(folder / "bundle", alpha)
    for name in ("trunk.safetensors", "alpha_mri.safetensors"):
        shutil.copy(folder / "whole" / name, folder / "bundle" / "models" / name)
    torch.save(load_network(folder / "bundle" / "models").state_dict(), folder / "bundle" / "models" / "model.pt")
    shutil.move(folder / "whole" / "beta_ct.safetensors", folder / "beta_ct.safetensors")
    shutil.rmtree(folder / "whole")


def _full_files(folder: Path) -> None:
    _universal_files(folder)
    _import(folder)


def _import(folder: Path) -> None:
    script("adapters", "import", str(folder / "beta_ct.safetensors"), "--bundle", str(folder / "bundle"))


def _remove(folder: Path) -> None:
    script("adapters", "remove", str(folder / "bundle"), "beta_ct", "--yes")


def _remove_again(folder: Path) -> None:
    bundle = folder / "bundle"
    if (bundle / "models" / "beta_ct.safetensors").exists() or check_bundle(bundle):
        _remove(folder)


def _is_a_network(folder: Path) -> None:
    """Adapters and trunk fit each other at every moment, and the first domain is what it was."""
    network = load_network(folder / "bundle" / "models")
    torch.manual_seed(0)
    alpha, beta = domain("alpha_mri"), domain("beta_ct", channels=2, classes=3)
    made = randomised(U2Net({d.name: d.network for d in (alpha, beta)}, **PLAN))
    assert fingerprint(network.adapter_state("alpha_mri")) == fingerprint(made.adapter_state("alpha_mri"))
    assert network.trunk_fingerprint() == made.trunk_fingerprint()


# ---- new_domain.py


def _dataset(folder: Path) -> None:
    decathlon(folder, cases=5)


def _new_domain(folder: Path) -> None:
    os.chdir(folder)
    options = ["--name", "phantom_mri", "--output-dir", "made", "--patch-voxels", "32768", "--max-steps", "2", "--no-picture"]
    script("new_domain", "Task99_Phantom", *options)


def _new_domain_again(folder: Path) -> None:
    if not (folder / "made").exists():
        _new_domain(folder)


# ---- training


def _training_files(folder: Path) -> None:
    decathlon(folder, cases=6, shape=(26, 34, 26))
    (folder / "config").mkdir()
    small_domain(BUNDLE, folder / "config")
    # Weights of an earlier training, which a new one keeps.
    bundle_of(folder / "earlier", domain("alpha_mri"))
    (folder / "run").mkdir()
    shutil.move(folder / "earlier" / "models", folder / "run" / "models")
    shutil.rmtree(folder / "earlier")


def _train(folder: Path) -> None:
    values = {**SMALL, "bundle_root": str(BUNDLE), "dataset_dir": str(folder / "Task99_Phantom"), "steps_per_epoch": 2}
    values["domain#path"] = str(folder / "config" / "domain.json")
    values.update(ckpt_dir=str(folder / "run" / "models"), output_dir=str(folder / "run" / "out"))
    workflow(BUNDLE, ["train.json"], values).run()


def _weights_load_or_are_refused(models: Callable[[Path], Path]) -> Callable[[Path], None]:
    """A set of files of which some are new is refused: no network of two halves."""

    def check(folder: Path) -> None:
        place = models(folder)
        try:
            network = load_network(place)
        except InputError:
            return
        state = network.state_dict()
        assert all(bool(torch.isfinite(value).all()) for value in state.values())

    return check


# ---- exports and imports


def _export_files(folder: Path) -> None:
    bundle_of(folder / "bundle", domain("alpha_mri"), domain("beta_ct", channels=2, classes=3))
    script("export_domain", str(folder / "bundle"), "--domain", "alpha_mri", "--output", str(folder / "exported.ts"))


def _export(folder: Path) -> None:
    options = ["--domain", "beta_ct", "--output", str(folder / "exported.ts"), "--overwrite"]
    script("export_domain", str(folder / "bundle"), *options)


def _original_files(folder: Path) -> None:
    from tests.reliability.readers import READERS

    sample = next(iter(READERS["original checkpoint"].make(folder / "samples")))
    shutil.move(sample / "original.pth", folder / "original.pth")
    shutil.rmtree(folder / "samples")
    bundle_of(folder / "bundle", domain("alpha_mri"))  # weights that are replaced


def _import_original(folder: Path) -> None:
    from custom_components.weights import import_original

    save_bundle_weights(import_original(folder / "original.pth").build(), folder / "bundle" / "models")


# ---- package_bundle.py: over a zip of other weights


def _package_files(folder: Path) -> None:
    from tests.sharing.bundles import complete_universal

    complete_universal(BUNDLE, folder / "small_universal")
    network = load_network(folder / "small_universal" / "models")
    kept = {path.name: path.read_bytes() for path in (folder / "small_universal" / "models").iterdir()}
    save_bundle_weights(randomised(network), folder / "small_universal" / "models")
    _package(folder)
    for name, content in kept.items():
        (folder / "small_universal" / "models" / name).write_bytes(content)


def _package(folder: Path) -> None:
    options = ["--output-dir", str(folder / "shared"), "--weights-licence", "CC0-1.0"]
    script("package_bundle", str(folder / "small_universal"), *options)


PROGRAMS = {
    program.name: program
    for program in (
        Program("segment.py", _segment_files, _segment_anew, _segment_anew),
        Program("segment.py, going on", _segmented_one, _segment, _segment),
        Program("adapters.py import", _universal_files, _import, _import, _is_a_network),
        Program("adapters.py remove", _full_files, _remove, _remove_again, _is_a_network),
        Program("new_domain.py", _dataset, _new_domain, _new_domain_again),
        Program("training", _training_files, _train, _train, _weights_load_or_are_refused(lambda f: f / "run" / "models")),
        Program("package_bundle.py", _package_files, _package, _package),
        Program("export_domain.py", _export_files, _export, _export),
        Program(
            "import_original.py",
            _original_files,
            _import_original,
            _import_original,
            _weights_load_or_are_refused(lambda f: f / "bundle" / "models"),
        ),
    )
}
