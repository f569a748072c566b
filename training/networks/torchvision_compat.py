"""torchvision beside a CPU build of torch.

torchvision's wheel is built against CUDA. Beside a CPU-only torch its C++ library does not load, and `import torchvision`
then fails on two operators that its own Python code registers unguarded. Defining those two names first lets the models and
transforms work; detection operators stay unavailable.
"""

from __future__ import annotations

import functools
from types import ModuleType

import torch


@functools.cache
def _define_missing_operators() -> torch.library.Library:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]  # torch's stub
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # torch's stub
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")  # type: ignore[no-untyped-call]  # torch's stub
    return library  # the definitions live as long as this object: the cache keeps it


@functools.cache
def import_torchvision() -> ModuleType:
    """The torchvision module, guarded where torch has no CUDA. Raises ImportError where it is not installed."""
    if torch.version.cuda is None:
        _define_missing_operators()
    import torchvision  # noqa: PLC0415  (must come after the guard)

    return torchvision  # type: ignore[no-any-return]  # the package carries no types
