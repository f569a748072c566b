"""What the gateway must know of a film before it is judged: where it belongs and what the selection rules ask. Pixels are not touched."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any, Final

from app.errors import ImageError
from app.imaging.dicom.attributes import body_part, view
from app.imaging.dicom.part10 import read_part10
from app.imaging.dicom.values import Header
from app.imaging.header import ImageLimits

# PS3.6; the UIDs of PS3.3 C.12.1 (SOP Common), C.7.2.1 (General Study), C.7.3.1 (General Series)
_SOP_CLASS, _SOP_INSTANCE, _STUDY, _SERIES = 0x00080016, 0x00080018, 0x0020000D, 0x0020000E
_IMAGE_TYPE, _MODALITY, _INSTANCE_NUMBER = 0x00080008, 0x00080060, 0x00200013
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,12}")


@dataclass(frozen=True, repr=False)
class FilmFacts:
    """Of one film. UIDs as text: in memory and under seal only, hence no repr. Words in upper case, empty where the header is silent.

    body_part, view: as `imaging.dicom.attributes` reads them for the answer.

    instance_number: of the film in its series, None where there is none.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_uid: str
    series_uid: str
    modality: str = ""
    body_part: str = ""
    view: str = ""
    image_type: tuple[str, ...] = ()
    instance_number: int | None = None

    def __repr__(self) -> str:
        return "FilmFacts(...)"

    @property
    def derived(self) -> bool:
        """PS3.3 C.7.6.1.1.2: value 1 of Image Type."""
        return self.image_type[:1] == ("DERIVED",)

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, data: bytes) -> FilmFacts:
        fields: dict[str, Any] = json.loads(data)
        return cls(**fields | {"image_type": tuple(fields["image_type"])})


def read_facts(data: bytes, max_bytes: int) -> FilmFacts:
    """Read the header of a Part 10 file, whose whole structure is walked within bounds.

    Args:
        max_bytes: largest file, and largest that a deflated one may become.

    Raises:
        ImageError: as `read_part10`; `malformed_dicom` also where one of the four UIDs is missing or none.
    """
    if data[128:132] != b"DICM":
        raise ImageError("malformed_dicom", what="the letters DICM are not where they belong")
    header = Header(read_part10(memoryview(data), ImageLimits(min_px=1, max_px=65_535, dicom_max_bytes=max_bytes)))
    number = header.text(_INSTANCE_NUMBER)
    return FilmFacts(
        sop_class_uid=_uid(header, _SOP_CLASS),
        sop_instance_uid=_uid(header, _SOP_INSTANCE),
        study_uid=_uid(header, _STUDY),
        series_uid=_uid(header, _SERIES),
        modality=header.word(_MODALITY),
        body_part=body_part(header) or "",
        view=view(header) or "",
        image_type=header.words(_IMAGE_TYPE),
        instance_number=int(number) if _INTEGER.fullmatch(number) else None,
    )


def _uid(header: Header, tag: int) -> str:
    uid = header.uid(tag)
    if not uid:
        raise ImageError("malformed_dicom", what="one of its UIDs is missing or none")
    return uid
