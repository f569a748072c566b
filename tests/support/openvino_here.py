"""Whether the extra `openvino` is installed: tests of it are skipped elsewhere."""

from __future__ import annotations

import pytest

from app.errors import BundleError
from app.inference.openvino import openvino

try:
    openvino()
    INSTALLED = True
except BundleError:
    INSTALLED = False
needs_openvino = pytest.mark.skipif(not INSTALLED, reason="needs the extra openvino")
