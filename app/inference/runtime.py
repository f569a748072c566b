"""ONNX Runtime with its telemetry switched off. Nothing else in the project imports `onnxruntime` by itself; a test sees to that.

From 1.31 on the official Linux build, when imported, keeps an event database with a device id in the user's cache folder and uploads
it. What a hospital runs must not report to anybody; the variable is read at import, so it is set here, just before.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime

__all__ = ["onnxruntime"]
