#!/usr/bin/env bash
# Makes .venv, installs the project in it and segments the hippocampus, on the MNI152 brain or on an image of yours.
#   bash scripts/quickstart.sh           the MNI152 brain
#   bash scripts/quickstart.sh IMAGE     your own image
#   bash scripts/quickstart.sh --help    all options
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Help needs no environment: quickstart.py imports nothing but the standard library before it has read its arguments.
for argument in "$@"; do
    case "$argument" in
        -h | --help)
            for candidate in "${VENV:-$repository/.venv}/bin/python" python3.11 python3; do
                command -v "$candidate" > /dev/null && exec "$candidate" "$repository/scripts/quickstart.py" --help
            done
            ;;
    esac
done

# In a function, so that the sourced script does not take this script's arguments for its own.
environment() { source "$repository/scripts/setup_env.sh"; }
SECONDS=0
environment
QUICKSTART_SETUP_SECONDS=$SECONDS exec "$PYTHON" "$repository/scripts/quickstart.py" "$@"
