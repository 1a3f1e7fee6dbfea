"""Runs as processes of their own: what is said of one that failed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from custom_components.errors import InputError
from custom_components.experiments.running import run_logged

FAILS = """
from custom_components.errors import InputError
from custom_components.weights import WeightsError
try:
    try:
        raise InputError("the first")
    except InputError as error:
        raise WeightsError("w.safetensors: is damaged; get it again") from error
except WeightsError as error:
    raise RuntimeError("Failed to evaluate; set '_mode_=debug' for further debugging.") from error
"""


def test_a_run_that_fails_is_told_by_its_last_input_error(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(repository))
    log = tmp_path / "runs" / "train.log"
    with pytest.raises(InputError) as caught:
        run_logged([sys.executable, "-c", FAILS], log)
    assert str(caught.value) == (
        f"{log}: the run ended with an error (w.safetensors: is damaged; get it again); mend it and give the same command again"
    )
    # An error of an earlier run in the same log is not this one's.
    with pytest.raises(InputError, match=r"ended with an error \(KeyError: 'other'\)"):
        run_logged([sys.executable, "-c", "raise KeyError('other')"], log)
    run_logged([sys.executable, "-c", "print('done')"], log)
    assert log.read_text().endswith("done\n")
