"""Every DICOM file under ../shared/data/dicom against the real service: an answer or a coded refusal, by the shipped bundle and by a tiny
one without a gate. The files are real or come from other makers; nothing of them is copied.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from app.errors import ERROR_TABLE
from app.settings import PROJECT_ROOT
from benchmarks.server import Server, serving

FOLDER = PROJECT_ROOT.parent / "shared" / "data" / "dicom"
pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="../shared/data is not here: no real DICOM files to test with"),
]

# what the file is, and what a bundle that judges anything answers: 200 or the code
EXPECTED: dict[str, tuple[str, int | str]] = {
    "CR-ModalitySequenceLUT.dcm": ("dental panorama, JPEG lossless, modality LUT", 200),
    "CT_small.dcm": ("CT of 128 px", 200),
    "ExplVR_BigEnd.dcm": ("ultrasound, big endian, RGB", "too_small"),
    "MR_small_RLE.dcm": ("MR, RLE", "too_small"),
    "MR_small_bigendian.dcm": ("MR, big endian", "too_small"),
    "MR_truncated.dcm": ("MR, cut", "truncated_image"),
    "RG1_J2KI.dcm": ("chest PA of an adult, JPEG 2000 lossy, 15 bits", 200),
    "RG2_JPLY.dcm": ("hip, JPEG extended, 12 bits", 200),
    "RG3_JLSL.dcm": ("leg, JPEG-LS", 200),
    "SC_rgb_jpeg_dcmtk.dcm": ("colour capture, JPEG", "too_small"),
    "bad_sequence_ct.dcm": ("CT, JPEG lossless, odd sequence", 200),
    "chrJapMulti_no_pixels.dcm": ("chest header in Japanese, no pixels", "dicom_without_image"),
    "emri_small_multiframe.dcm": ("MR of ten frames", "multi_frame_image"),
    "gdcm-CR-MONO1-10-chest.dcm": ("chest PA, MONOCHROME1, 10 bits", 200),
    "image_dfl.dcm": ("pattern, deflated", 200),
    "meta_missing_tsyntax.dcm": ("no transfer syntax in the meta", "malformed_dicom"),
    "mlut_18.dcm": ("pattern, modality LUT, signed", 200),
    "no_meta.dcm": ("no preamble, no meta", "unsupported_format"),
    "rsna_16d7f894_mono1_tag_only.dcm": ("chest PA, JPEG, marked as MONOCHROME1 wrongly", 200),
    "rsna_16d7f894_mono2.dcm": ("chest PA, JPEG", 200),
    "rtplan.dcm": ("treatment plan", "dicom_without_image"),
    "structured_report_no_pixels.dcm": ("structured report", "dicom_without_image"),
    "udacity_test1.dcm": ("chest, implicit, 8 bits", 200),
    "udacity_test4_bodypart_ribcage.dcm": ("the same, said to be a rib cage", 200),
    "udacity_test5_modality_ct.dcm": ("the same, said to be CT", 200),
    "udacity_test6_position_xx.dcm": ("the same, odd patient position", 200),
    "vlut_04.dcm": ("pattern, VOI LUT", 200),
}
# what a bundle for frontal chest films may answer; all else must be refused
CHEST = {
    "RG1_J2KI.dcm", "gdcm-CR-MONO1-10-chest.dcm", "rsna_16d7f894_mono2.dcm", "udacity_test1.dcm", "udacity_test4_bodypart_ribcage.dcm",
    "udacity_test6_position_xx.dcm",
}  # fmt: skip


def outcome(server: Server, key: str, path: Path) -> tuple[int, str]:
    """Status, and code or label."""
    reply = server.request("POST", "/predict", key=key, body=path.read_bytes(), Content_Type="application/dicom")
    if reply.status == 200:
        answer = reply.json()
        assert answer["image"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        return 200, str(answer["prediction"]["label"])
    return reply.status, str(reply.json()["code"])


def all_outcomes(server: Server) -> Mapping[str, tuple[int, str]]:
    key = server.key("service")
    found = {path.name: outcome(server, key, path) for path in sorted(FOLDER.glob("*.dcm"))}
    again = {path.name: outcome(server, key, path) for path in sorted(FOLDER.glob("*.dcm"))}
    assert again == found
    assert server.request("GET", "/health/ready").status == 200
    assert server.cxr("audit", "verify").returncode == 0
    return found


def show(title: str, found: Mapping[str, tuple[int, str]]) -> None:
    print(f"\n| file | what | {title} |\n|---|---|---|")
    for name, (status, said) in found.items():
        print(f"| {name} | {EXPECTED.get(name, ('?', 0))[0]} | {status} {said} |")


def test_every_file_is_answered_or_refused_by_its_code(bundles_dir: Path) -> None:
    with serving(bundles_dir=bundles_dir) as server:
        found = all_outcomes(server)
    show("tiny bundle without a gate", found)
    assert {name: 200 if status == 200 else said for name, (status, said) in found.items()} == {
        name: expected for name, (_, expected) in EXPECTED.items()
    }
    assert all(ERROR_TABLE[said].status == status < 500 for status, said in found.values() if status != 200)


def test_the_shipped_bundle_answers_or_refuses_every_file() -> None:
    with serving() as server:
        gated = server.request("GET", "/health").json()
        found = all_outcomes(server)
    show(f"{gated['bundle']}", found)
    assert set(found) == set(EXPECTED)
    answered = {name for name, (status, _) in found.items() if status == 200}
    assert {"gdcm-CR-MONO1-10-chest.dcm", "rsna_16d7f894_mono2.dcm"} <= answered <= CHEST
    assert all(ERROR_TABLE[said].status == status < 500 for status, said in found.values() if status != 200)
