#!/usr/bin/env bash
# Installs what the tests need into .venv and runs them. Arguments go to pytest:
#   bash scripts/test.sh                       everything
#   bash scripts/test.sh tests/weights -k pt   some
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh requirements-test.txt

# Two processes with one thread each: torch and numba would otherwise fight for the same cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg
exec "$PYTHON" -m pytest -n "${TEST_PROCESSES:-2}" --dist loadfile "$@"
