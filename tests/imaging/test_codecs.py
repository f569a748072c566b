"""Decoders are opened in one module only."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DECODER_CALL = re.compile(
    r"\b(imdecode\w*|imread\w*|decode_jpeg|decode_jpeg_header|Image\.open|imageio|VideoCapture|imiterator)\b"
)


def test_no_other_module_opens_an_image_decoder() -> None:
    found = {}
    for path in sorted((ROOT / "app").rglob("*.py")):
        calls = _DECODER_CALL.findall(path.read_text(encoding="utf-8"))
        if calls:
            found[path.relative_to(ROOT / "app").as_posix()] = sorted(set(calls))
    assert found == {
        "imaging/codecs.py": ["decode_jpeg", "imdecode"],
        "imaging/dicom/frame_codecs.py": ["decode_jpeg"],  # in a child process only; see the next test
    }


def test_the_codecs_of_dicom_stay_in_their_child_process() -> None:
    users = [
        path.relative_to(ROOT / "app").as_posix()
        for path in sorted((ROOT / "app").rglob("*.py"))
        if re.search(
            r"^\s*(from|import) .*\b(frame_codecs|gdcm|openjpeg|jpeg_ls)\b", path.read_text("utf-8"), re.MULTILINE
        )
    ]
    assert users == ["imaging/dicom/decoder_process.py", "imaging/dicom/frame_codecs.py"]


def test_each_decoder_is_called_once() -> None:
    text = (ROOT / "app" / "imaging" / "codecs.py").read_text(encoding="utf-8")
    assert len(re.findall(r"\.imdecode\(", text)) == len(re.findall(r"\.decode_jpeg\(", text)) == 1
