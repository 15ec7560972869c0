"""Import torchvision, also where its compiled part does not fit a CPU-only build of torch.

The published torchvision wheel registers its operators from a library that wants CUDA. Beside a CPU build of
torch that library does not load, and the import ends with "operator torchvision::nms does not exist",
although ResNet and the transforms need no such operator. Declaring the schemas that the import asks for
(``nms``; since 0.28 ``qnms`` too) lets it pass; calling those operators then fails with torch's clear error.
"""

import importlib
import sys
from types import ModuleType

import torch

_MISSING = "operator torchvision::nms does not exist"
_declared: list[torch.library.Library] = []


def import_torchvision() -> ModuleType:
    """Return torchvision; missing schemas are declared only where the plain import fails for them."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    # The declarations live as long as this object does.
    _declared.append(library)
    return importlib.import_module("torchvision")
