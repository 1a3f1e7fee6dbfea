"""Runs of ``python -m monai.bundle run`` as processes of their own, each with a log."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_components.errors import InputError

__all__ = ["bundle_command", "configs_sha256", "descriptions_sha256", "run_logged", "split_options"]

NOT_OF_TRAINING = {"metadata.json", "inference.json"}

# An `InputError` or a class of it, as a traceback ends; its message is one line.
OWN_ERROR = re.compile(r"^custom_components\.[\w.]+Error: (.+)$", re.MULTILINE)


def bundle_command(values: Mapping[str, object], more: Sequence[str] = ()) -> list[str]:
    """The command that runs a bundle's configuration.

    Args:
        values: overrides by name, ``config_file`` among them (a path, or a list of them).
        more: further arguments, as they are.
    """
    listed = []
    for key, value in values.items():
        listed += [f"--{key}", str([str(v) for v in value]) if isinstance(value, (list, tuple)) else str(value)]
    return [sys.executable, "-m", "monai.bundle", "run", *listed, *more]


def configs_sha256(bundle: Path) -> str:
    """A hash of what the configurations say that train and evaluate: what was trained under other ones is no equal.

    Left out are ``metadata.json`` and ``inference.json``, which a training does not read, and the descriptions in ``domains``,
    for a bundle gets more of them (`descriptions_sha256`). The order of keys and the layout of the text count for nothing.

    Raises:
        InputError: a file is not valid JSON.
    """
    paths = [path for path in (bundle / "configs").glob("*.json") if path.name not in NOT_OF_TRAINING]
    return _sha256({path.name: _values(path) for path in paths})


def descriptions_sha256(bundle: Path, domains: Iterable[str]) -> dict[str, str]:
    """Domain to a hash of what its description in a bundle of many domains says.

    Raises:
        InputError: a file is missing or is not valid JSON.
    """
    return {name: _sha256(_values(bundle / "configs" / "domains" / f"{name}.json")) for name in domains}


def _values(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}); restore it from the bundle") from None


def _sha256(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def split_options(given: Sequence[str], reserved: Collection[str] = ()) -> list[str]:
    """``["--lr 0.002"]`` → ``["--lr", "0.002"]``, before anything is run with them.

    Args:
        given: a name and a value each.
        reserved: names (``fold``) that are the script's own to set; an option would otherwise win over what it says it did.

    Raises:
        InputError: one has no value, or no ``--`` before its name, or is reserved.
    """
    parts = []
    for text in given:
        pair = text.split(maxsplit=1)
        if len(pair) != 2 or not pair[0].startswith("--"):
            raise InputError(f"--option '{text}': must be a name and a value, such as --option '--lr 0.002'")
        name = pair[0].removeprefix("--").split("#")[0].split("::")[0]
        if name in reserved:
            raise InputError(f"--option '{text}': this script itself says what {name} is; leave it out, and see --help")
        parts += pair
    return parts


def run_logged(command: Sequence[str], log: Path) -> None:
    """Run a command to its end, its output appended to a log.

    Raises:
        InputError: it failed; the message has what its last `InputError` said, or the log's last line where there was none.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        before = file.tell()
        file.write(f"\n{time.strftime('%Y-%m-%d %H:%M:%S')} {' '.join(command)}\n")
        file.flush()
        environment = {**os.environ, "TQDM_DISABLE": "1"}  # bars are for people, a log is read later
        done = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False)
    if done.returncode:
        text = log.read_bytes()[before:].decode("utf-8", errors="replace")
        raise InputError(f"{log}: the run ended with an error ({_reason(text)}); mend it and give the same command again")


def _reason(text: str) -> str:
    """Why a run failed, by what it printed; MONAI ends its tracebacks with advice of its own, which says nothing of the cause."""
    told = OWN_ERROR.findall(text)
    return str(told[-1] if told else text.rstrip().splitlines()[-1]).strip()
