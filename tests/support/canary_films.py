"""Phantom films in which everything that can name a person does: every text element of the standard's dictionary, private elements,
nested sequences, UIDs, dates, the file meta and the preamble, in several character sets. All of it is invented (`canaries`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydicom._dicom_dict import DicomDictionary
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEG2000Lossless, RLELossless

from app.imaging.phantom import encode_jpeg, encode_png, phantom
from tests.support.canaries import BORN, DIGITS, KANJI, LATIN, TAKEN, WORD
from tests.support.dicom_films import as_bytes, file_dataset

ROOT = f"1.2.826.0.1.3680043.10.{DIGITS}"
_LENGTHS = {"PN": 60, "LO": 60, "SH": 16, "AE": 16, "LT": 200, "ST": 200, "UT": 400, "UC": 200, "UR": 60}
_PLAIN = ("AE", "UR")  # of the default repertoire whatever the character set
_GROUPS_LEFT_OUT = (0x0000, 0x0002, 0x0004, 0xFFFE)


@dataclass(frozen=True)
class CanaryFilm:
    """name; the file; what `/predict` of a tiny bundle with a gate must answer: status and code (`answered` for 200)."""

    name: str
    data: bytes
    status: int = 200
    code: str = "answered"


def canary_dataset(seed: int, *words: str, charset: str | list[str] = "ISO_IR 192") -> Dataset:
    """A sound film, four years old, PA; `words` go into every text."""
    data = file_dataset(seed, uid_root=ROOT)
    data.SpecificCharacterSet = charset
    words = words or (WORD, LATIN, KANJI)
    for tag, (vr, _, _, _, keyword) in DicomDictionary.items():
        if keyword and vr in _LENGTHS and tag >> 16 not in _GROUPS_LEFT_OUT:
            setattr(data, keyword, _value(vr, words))
    data.PatientName = f"{words[-1]}{seed}^{WORD}^{words[0]}"  # a family name that stands nowhere else
    data.PatientID = f"{WORD}-4711-{seed}"
    data.AccessionNumber = f"{WORD}A{seed}"
    data.PatientBirthDate, data.StudyDate = BORN, TAKEN
    data.FrameOfReferenceUID = f"{ROOT}.{seed}.9"
    private = data.private_block(0x0099, f"{WORD} MAKER", create=True)
    private.add_new(1, "LO", words[0])
    private.add_new(2, "UN", LATIN.encode("utf-16-le") + WORD.encode("utf-16-be"))
    private.add_new(3, "OB", KANJI.encode("utf-16-le"))
    data.OtherPatientIDsSequence = Sequence([_nested(PatientID=f"{WORD}-OTHER", IssuerOfPatientID=WORD)])
    data.RequestAttributesSequence = Sequence(
        [_nested(RequestedProcedureDescription=words[0], ScheduledProcedureStepID=WORD)]
    )
    data.ReferencedStudySequence = Sequence([_nested(ReferencedSOPInstanceUID=f"{ROOT}.{seed}.8")])
    data.file_meta.SourceApplicationEntityTitle = WORD
    data.file_meta.ImplementationVersionName = WORD
    data.file_meta.PrivateInformationCreatorUID = UID(f"{ROOT}.7")
    data.file_meta.PrivateInformation = KANJI.encode() + WORD.encode("utf-16-le")
    data.preamble = b"II*\x00" + f"{WORD} {LATIN}".encode("utf-16-le").ljust(124, b"\0")
    return data


def identifiers_of(*seeds: int) -> tuple[str, ...]:
    """What must not even stand somewhere as a digest without a key."""
    return tuple(
        text
        for seed in seeds
        for text in (f"{WORD}-4711-{seed}", f"{WORD}A{seed}", *(f"{ROOT}.{seed}.{part}" for part in (1, 2, 3)))
    )


def good_films() -> Iterator[CanaryFilm]:
    """Films that are judged. Their seeds are 1 to 6."""
    yield CanaryFilm("utf_8", as_bytes(canary_dataset(1)))
    yield CanaryFilm("latin_1", as_bytes(canary_dataset(2, WORD, LATIN, charset="ISO_IR 100")))
    yield CanaryFilm("japanese", as_bytes(canary_dataset(3, WORD, KANJI, charset=["ISO 2022 IR 6", "ISO 2022 IR 87"])))
    for seed, (name, uid) in enumerate(
        {"implicit": ImplicitVRLittleEndian, "deflated": DeflatedExplicitVRLittleEndian}.items(), 4
    ):
        data = canary_dataset(seed)
        data.file_meta.TransferSyntaxUID = uid
        yield CanaryFilm(name, as_bytes(data))
    data = canary_dataset(6)
    data.compress(JPEG2000Lossless, generate_instance_uid=False)
    yield CanaryFilm("compressed", as_bytes(data))


def other_films() -> Iterator[CanaryFilm]:
    """Films that are refused, or judged although a part of the header is broken. Their seeds are 11 and more."""
    yield from _refused()
    yield from _odd()
    sound = as_bytes(canary_dataset(31))
    assert sound.count(b"ISO_IR 192") == 1
    yield CanaryFilm("charset_unknown", sound.replace(b"ISO_IR 192", WORD.encode() + b"  "))
    yield CanaryFilm("charset_broken", sound.replace(KANJI.encode()[:3], b"\xff\xfe\xfd"))
    yield CanaryFilm("charset_absent", sound.replace(b"ISO_IR 192", b" " * 10))
    yield CanaryFilm("cut", sound[:-9], 400, "truncated_image")
    yield CanaryFilm("appended", sound + WORD.encode(), 400, "malformed_dicom")
    yield CanaryFilm("program", b"MZ" + WORD.encode().ljust(126, b"\0") + sound[128:], 400, "executable_preamble")
    yield CanaryFilm(
        "one_bit_of_header", sound.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00PN"), 400, "malformed_dicom"
    )
    yield CanaryFilm(
        "syntax",
        sound.replace(b"1.2.840.10008.1.2.1\x00", WORD.encode().ljust(20), 1),
        415,
        "unsupported_transfer_syntax",
    )
    without = canary_dataset(32)
    del without.PixelData
    yield CanaryFilm("no_film", as_bytes(without), 415, "dicom_without_image")
    yield CanaryFilm("only_text", (f"{WORD} {LATIN} {KANJI} " * 50).encode(), 415, "unsupported_format")
    compressed = canary_dataset(33)
    compressed.compress(RLELossless, generate_instance_uid=False)
    broken = as_bytes(compressed)
    at, words = len(broken) - 60_000, WORD.encode() * 900
    yield CanaryFilm("codestream", broken[:at] + words + broken[at + len(words) :], 400, "undecodable_image")


def pictures() -> Mapping[str, bytes]:
    """The same phantom as JPEG and PNG, by media type, with comments that name somebody."""
    words = f"{WORD} {LATIN} {KANJI}".encode()
    jpeg, png = encode_jpeg(phantom(41)), encode_png(phantom(42))
    comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words
    text = b"tEXt" + f"Author\0{WORD} {LATIN}".encode("latin-1")
    chunk = (len(text) - 4).to_bytes(4, "big") + text + zlib.crc32(text).to_bytes(4, "big")
    return {"image/jpeg": jpeg[:2] + comment + jpeg[2:], "image/png": png[:33] + chunk + png[33:]}


def _odd() -> Iterator[CanaryFilm]:
    """Values that no standard allows in headers, from which libraries like to quote when they complain. Seeds 34 and 35."""
    with disable_value_validation():
        data = canary_dataset(34)
        data.PatientName = f"{KANJI * 9}\x07^{WORD * 20}=^^^^^^^{LATIN}=a=b={WORD}"
        data.PatientID = f"{WORD}\t\n\\{LATIN * 20}"
        data.AccessionNumber = data.StudyID = f"{WORD}\\{WORD * 5}"
        data.ReferringPhysicianName = f"{LATIN}\\{KANJI}"
        data.PatientBirthDate = data.StudyDate = data.StudyTime = data.ContentTime = WORD
        data.PatientSex = data.Laterality = data.PatientOrientation = data.ImageType = WORD.lower()
        data.FrameOfReferenceUID = f"{ROOT}.00.{WORD}"
        data.InstanceNumber = data.SeriesNumber = None
        yield CanaryFilm("odd_values", as_bytes(data))
        data = canary_dataset(35)
        data.StudyInstanceUID = f"{WORD}.{ROOT}.35.1"
        data.SeriesInstanceUID, data.SOPClassUID = f"{ROOT}.35.2{LATIN}", f"{WORD}.1.2"
        yield CanaryFilm("odd_uids", as_bytes(data))


def _refused() -> Iterator[CanaryFilm]:
    """By the gate and by the reader, with words of the client's own where the standard has a closed list."""
    for seed, (keyword, value, status, code) in enumerate(
        (
            ("ViewPosition", "LL", 422, "lateral_view"),
            ("ViewPosition", WORD, 422, "unsupported_view"),
            ("Modality", WORD, 422, "unsupported_modality"),
            ("BodyPartExamined", WORD, 422, "unsupported_body_part"),
            ("PatientAge", "077Y", 422, "patient_age_out_of_range"),
            ("BurnedInAnnotation", "YES", 422, "burned_in_annotation"),
            ("PresentationIntentType", "FOR PROCESSING", 422, "not_for_presentation"),
            ("PhotometricInterpretation", WORD, 415, "unsupported_color"),
            ("VOILUTFunction", WORD, 400, "malformed_dicom"),
            ("NumberOfFrames", 2, 415, "multi_frame_image"),
        ),
        11,
    ):
        data = canary_dataset(seed)
        setattr(data, keyword, value)
        yield CanaryFilm(f"{code}_{seed}", as_bytes(data), status, code)


def _value(vr: str, words: tuple[str, ...]) -> str:
    text = WORD if vr in _PLAIN else " ".join(words)
    while len(text.encode()) > _LENGTHS[vr]:
        text = text.rsplit(" ", 1)[0]
    return text


def _nested(**attributes: str) -> Dataset:
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return item
