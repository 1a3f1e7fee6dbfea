#!/usr/bin/env bash
# Makes .venv-label with MONAI Label in it and serves the bundles that have weights, for 3D Slicer and OHIF.
#   bash scripts/serve.sh --studies FOLDER      images in FOLDER, server on http://127.0.0.1:8000
#   bash scripts/serve.sh --help                all options
set -euo pipefail
repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

# Help needs no installation: serve.py imports two small packages before it has read its arguments.
for argument in "$@"; do
    case "$argument" in
        -h | --help)
            for candidate in "${VENV_LABEL:-$repository/.venv-label}/bin/python" "$repository/.venv/bin/python"; do
                [ -x "$candidate" ] && exec "$candidate" "$repository/scripts/serve.py" --help
            done
            exec python3 -c 'import ast, sys; print(ast.get_docstring(ast.parse(open(sys.argv[1]).read())))' "$repository/scripts/serve.py"
            ;;
    esac
done

# In a function, so that the sourced script does not take this script's arguments for its own.
environment() { source "$repository/scripts/label_env.sh"; }
environment
exec "$LABEL_PYTHON" "$repository/scripts/serve.py" "$@"
