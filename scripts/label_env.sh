# Makes .venv-label, MONAI Label's own environment, and installs the project in it; sourced by serve.sh and test_label.sh.
#
#   source scripts/label_env.sh [REQUIREMENTS_FILE...]
#
# Sets LABEL_PYTHON. MONAI Label wants other versions of some packages than the project (requirements-label.txt), and Python
# 3.11. Packages that are named in requirements.txt only are installed as they are there. Files beyond that
# (requirements-test.txt) are installed too. A stamp holds the hash of what was asked for, so a second run installs nothing.
# An interpreter can be chosen with PYTHON_BIN=/path/python3.11, another place with VENV_LABEL=/path.

repository="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV_LABEL="${VENV_LABEL:-$repository/.venv-label}"
LABEL_PYTHON="$VENV_LABEL/bin/python"

if [ ! -x "$LABEL_PYTHON" ]; then
    python_bin="${PYTHON_BIN:-python3.11}"
    "$python_bin" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2> /dev/null || {
        echo "error: MONAI Label needs Python 3.11 with the venv module; name one with PYTHON_BIN=/path/python3.11" >&2
        exit 1
    }
    echo "Making $VENV_LABEL with $("$python_bin" --version)"
    "$python_bin" -m venv "$VENV_LABEL" || { echo "error: $python_bin could not make $VENV_LABEL" >&2; exit 1; }
fi

label_files=(requirements-label.txt requirements-label-no-deps.txt requirements.txt pyproject.toml "$@")
wanted="$(cd "$repository" && cat "${label_files[@]}" scripts/label_env.sh | sha256sum | cut -d ' ' -f 1)"
if [ "$(cat "$VENV_LABEL/.installed-$#" 2> /dev/null)" != "$wanted" ]; then
    echo "Installing MONAI Label (some minutes the first time)"
    versions="$(mktemp)"
    # Ours, except for what MONAI Label wants otherwise, and without CuPy, whose release wants a newer NumPy.
    own="$(sed -n 's/^\([A-Za-z0-9_.-]*\)==.*/\1/p' "$repository/requirements-label.txt" | paste -sd '|')"
    grep -Ev "^($own|cupy-cuda13x)==" "$repository/requirements.txt" > "$versions"
    label_pip() { "$LABEL_PYTHON" -m pip install --quiet --disable-pip-version-check "$@"; }
    more=()
    for file in "$@"; do more+=(--requirement "$repository/$file"); done
    label_pip --requirement "$versions" --requirement "$repository/requirements-label.txt" "${more[@]}" \
        && label_pip --no-deps --requirement "$repository/requirements-label-no-deps.txt" \
        && label_pip --no-deps --editable "$repository" \
        || { rm -f "$versions"; echo "error: pip could not install MONAI Label; see its message above" >&2; exit 1; }
    rm -f "$versions"
    echo "$wanted" > "$VENV_LABEL/.installed-$#"
fi
export LABEL_PYTHON
