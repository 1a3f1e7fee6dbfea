#!/usr/bin/env bash
# Installs MONAI Label and what its tests need into .venv-label and runs tests/label. Arguments go to pytest:
#   bash scripts/test_label.sh                 all of them
#   bash scripts/test_label.sh -k oblique      some
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
environment() { source scripts/label_env.sh requirements-label-test.txt; }
environment

export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg
exec "$LABEL_PYTHON" -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile tests/label "$@"
