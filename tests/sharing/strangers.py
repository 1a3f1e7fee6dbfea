"""A machine of somebody else's, in small: an environment with every installed package but this project."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

OURS = ("custom_components", "u2net_monai", "__editable__.u2net", "__editable___u2net")


@dataclass(frozen=True)
class Stranger:
    """An environment: its interpreter and the folder to work in."""

    python: Path
    home: Path

    def run(
        self, *command: object, cwd: Path | None = None, code: int = 0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the interpreter with arguments, without anything of ours in the environment; asks for its exit code."""
        result = subprocess.run(
            [str(self.python), *map(str, command)],
            cwd=cwd or self.home,
            env={**_plain_environment(self.home), **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, result.stdout[-3000:] + result.stderr[-6000:]
        return result


def stranger(folder: Path) -> Stranger:
    """Make the environment: a venv whose packages are links to the installed ones, all but this project and its traces."""
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    packages = folder / "packages"
    packages.mkdir()
    for place in dict.fromkeys(path for path in sys.path if Path(path).name == "site-packages"):
        for entry in sorted(Path(place).iterdir()):
            # A .pth file could lead back to this checkout.
            hidden = entry.name.startswith(OURS) or entry.suffix == ".pth" or entry.name == "__pycache__"
            if not hidden and not (packages / entry.name).exists():
                (packages / entry.name).symlink_to(entry)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (folder / "venv" / "lib" / version / "site-packages" / "packages.pth").write_text(f"{packages}\n")
    home = folder / "home"
    home.mkdir()
    found = Stranger(folder / "venv" / "bin" / "python", home)
    found.run("-c", "import torch, monai, importlib.util as u; assert u.find_spec('custom_components') is None")
    return found


def _plain_environment(home: Path) -> dict[str, str]:
    kept = {
        key: os.environ[key] for key in ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "OPENBLAS_CORETYPE") if key in os.environ
    }
    return {**kept, "HOME": str(home), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
