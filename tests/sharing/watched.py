"""Run a script of the project and fail where it does anything that a careful path must not: see `hook`.

    python watched.py BUNDLE POISON MAY_OPEN SCRIPT ARGUMENTS...

POISON is a word that stands in all code of the bundle, MAY_OPEN a pattern of the bundle's files that may be opened. Started as
a program of its own, so that the hook is there before anything is imported.
"""

import os
import re
import runpy
import sys

bundle, poison, may_open, script, *arguments = sys.argv[1:]
bundle = os.path.realpath(bundle)
found: list[str] = []


def inside(path: object) -> bool:
    """Whether a path leads into the bundle; names such as <string> are none."""
    return (
        isinstance(path, str | bytes)
        and os.fsdecode(path)[:1] != "<"
        and os.path.realpath(os.fsdecode(path)).startswith(bundle + os.sep)
    )


def relative(path: str | bytes) -> str:
    return os.path.relpath(os.path.realpath(os.fsdecode(path)), bundle)


def numbas_own() -> bool:
    """Whether numba reads what it compiled on this machine before; its files are no part of the bundle (see the open event)."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.endswith(os.path.join("numba", "core", "caching.py")):
            return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def hook(event: str, args: tuple) -> None:  # type: ignore[type-arg]
    """Python's own word for what happens (PEP 578): unpickling by name, code from the bundle, expressions of the bundle."""
    fault = None
    if event == "pickle.find_class" and not numbas_own():
        fault = f"unpickling {args[0]}.{args[1]}"
    elif event == "compile" and (inside(args[1]) or (isinstance(args[0], str | bytes) and poison in os.fsdecode(args[0]))):
        fault = f"compiling {str(args[1])[:200]} {str(args[0])[:200]}"
    elif event == "exec" and (inside(args[0].co_filename) or poison in str(args[0].co_consts)):
        fault = f"executing {args[0].co_filename}"
    elif event == "open" and inside(args[0]) and not re.fullmatch(may_open, relative(args[0])):
        fault = f"opening {os.fsdecode(args[0])}"
    elif event in ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn") and poison in str(args):
        fault = f"starting {args}"
    elif event == "import" and inside(args[1]):
        fault = f"importing {args[1]}"
    if fault is not None:
        found.append(fault)


sys.addaudithook(hook)
sys.argv = [script, *arguments]
code = 0
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as stop:
    code = stop.code if isinstance(stop.code, int) else 1
for line in found:
    print(f"CAUGHT {line}", file=sys.stderr)
sys.exit(99 if found else code)
