"""Lets torchvision be imported beside a CPU build of torch. Python runs this at start where the folder is on PYTHONPATH.

MONAI Label's own apps, such as ``monaibundle``, import torchvision and use none of its operators (the app of this project does
without). A registry's torchvision is built for CUDA; beside a torch without CUDA its library cannot be loaded, and its import
then fails for operators that nobody has named ("operator torchvision::nms does not exist"). So they are named here, where the
library does not load. A training runs in a process of its own, hence the environment and not an import.
"""

from importlib.machinery import PathFinder
from pathlib import Path


def name_operators() -> None:
    found = PathFinder.find_spec("torchvision")
    if found is None or found.origin is None:
        return
    import torch

    try:
        for library in Path(found.origin).parent.glob("_C*.so"):
            torch.ops.load_library(str(library))
        assert torch.ops.torchvision.nms
        return
    except (OSError, AttributeError, RuntimeError):
        pass
    fragment = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        fragment.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    KEPT.append(fragment)


KEPT: list[object] = []  # the definitions end with the object
name_operators()
