# Makes .venv and installs the project in it; sourced by quickstart.sh and test.sh.
#
#   source scripts/setup_env.sh [REQUIREMENTS_FILE...]
#
# Sets PYTHON to the environment's interpreter. Files beyond requirements.txt (requirements-test.txt) are installed too.
# A stamp holds the hash of what was asked for, so a second run installs nothing. The interpreter can be chosen with
# PYTHON_BIN=python3.12; an environment of your own with VENV=/path.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$repository/.venv}"

find_python() {
    local candidate
    for candidate in ${PYTHON_BIN:-python3.11 python3.12 python3.13 python3}; do
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with the venv module was found; on Debian and Ubuntu: apt-get install python3-venv" >&2
    return 1
}

if [ ! -x "$VENV/bin/python" ]; then
    python_bin="$(find_python)" || exit 1
    echo "Making $VENV with $("$python_bin" --version)"
    "$python_bin" -m venv "$VENV" || { echo "error: $python_bin could not make $VENV" >&2; exit 1; }
fi
PYTHON="$VENV/bin/python"

for requirements in requirements.txt "$@"; do
    stamp="$VENV/.installed-$requirements"
    wanted="$(cat "$repository/requirements.txt" "$repository/pyproject.toml" "$repository/$requirements" | sha256sum | cut -d ' ' -f 1)"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "Installing $requirements (some minutes the first time)"
        "$PYTHON" -m pip install --quiet --disable-pip-version-check \
            --constraint "$repository/requirements.txt" --requirement "$repository/$requirements" \
            || { echo "error: pip could not install $requirements; see its message above" >&2; exit 1; }
        if [ "$requirements" = requirements.txt ]; then
            "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --editable "$repository" \
                || { echo "error: pip could not install the project; see its message above" >&2; exit 1; }
        fi
        echo "$wanted" > "$stamp"
    fi
done
export PYTHON
