"""`cxr conformance`: the DICOM conformance statement (after PS3.2), made from the tables the code runs on.

`deploy/CONFORMANCE.md` is its output; a test compares the two, so that neither can say what the other does not do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import get_args

import typer

from app import results
from app.bundle.gate_spec import GATE_CODES
from app.errors import ERROR_TABLE
from app.imaging.dicom.pixel_format import MONOCHROME
from app.imaging.dicom.transfer_syntax import SYNTAXES
from app.imaging.dicom.words import SOP_CLASSES as SOP_CLASSES_NAMED
from app.settings import Settings

FILE_CODES = (
    "malformed_dicom",
    "executable_preamble",
    "truncated_image",
    "trailing_data",
    "dicom_without_image",
    "unsupported_transfer_syntax",
    "unsupported_pixel_format",
    "unsupported_color",
    "multi_frame_image",
    "undecodable_image",
    "image_too_large",
    "too_small",
    "blank_image",
)


def conformance() -> None:
    """Print the DICOM conformance statement as Markdown. Needs the extra `dimse`, whose tables are part of it."""
    typer.echo(statement(), nl=False)


def statement() -> str:
    """The whole document."""
    parts = [_INTRODUCTION, _application_entities(), _reading(), _display(), _refusals(), _results(), _SECURITY]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _name(uid: str) -> str:
    from pydicom.uid import UID  # noqa: PLC0415 - only this command needs the dictionary of names

    return UID(uid).name.replace(" (Retired)", "")


def _application_entities() -> str:
    from app.gateway import statuses  # noqa: PLC0415 - the extra
    from app.gateway.config import DicomObject  # noqa: PLC0415 - the extra
    from app.gateway.scp import STORAGE_CLASSES, TRANSFER_SYNTAXES  # noqa: PLC0415 - the extra

    sent = sorted({results.SOP_CLASSES[kind] for kind in get_args(DicomObject)})
    scp = _table(
        ("SOP class", "UID", "role"),
        [
            ("Verification", "1.2.840.10008.1.1", "SCP"),
            *((_name(str(uid)), str(uid), "SCP") for uid in STORAGE_CLASSES),
            *((_name(uid), uid, "SCU (results)") for uid in sent),
        ],
    )
    syntaxes = _table(("transfer syntax", "UID"), [(_name(str(uid)), str(uid)) for uid in TRANSFER_SYNTAXES])
    replies = _table(
        ("status", "meaning"),
        [tuple(part.strip() for part in line.strip().split("  ", 1)) for line in _status_lines(str(statuses.__doc__))],
    )
    return f"""
## Application entities of the gateway (`cxr gateway run`)

One application entity, AE title and port configured (`[dimse]`), peers by AE title and, where given, address. It proposes no
asynchronous operations window and negotiates none. Objects are kept as received, never transcoded.

{scp}

Storage contexts are accepted with these transfer syntaxes, in this order of preference:

{syntaxes}

Results are sent as Explicit VR Little Endian. Status of a C-STORE response, and Failure Reason of a STOW-RS response:

{replies}

STOW-RS (PS3.18 section 10.5), user agent and origin server: `POST /studies` and `POST /studies/{{uid}}` take
`multipart/related; type="application/dicom"` with a bearer token and answer `application/dicom+json`; results are sent the same way, each
instance's acceptance is read from the response."""


def _status_lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip().startswith("0x")]


def _reading() -> str:
    settings = Settings.model_fields
    syntaxes = _table(
        ("transfer syntax", "UID", "decoded in"),
        [(s.name, uid, "a child process" if s.encapsulated else "the service") for uid, s in SYNTAXES.items()],
    )
    return f"""
## What the service reads (`POST /predict`, `/batch_predict`, `/gradcam`, `/reports`)

Part 10 files with File Meta Information. Compressed pixel data are decoded in child processes with bounded memory and time.

{syntaxes}

Single frame; 8 or 16 bits allocated, 8 to 16 stored, high bit = bits stored - 1, signed or unsigned; {" and ".join(MONOCHROME)};
8-bit RGB and YBR (films captured in colour) are taken as luma (ITU-R BT.601). PALETTE COLOR, float pixel data and several frames are
refused. At most {settings["dicom_max_bytes"].default:,} bytes (also after inflation) and
{settings["dicom_max_px"].default:,} px a side unless set otherwise. Presence, value representation, multiplicity and
product of the image attributes are checked before a pixel is touched.

Known SOP classes (others are taken as `other` and judged by modality):
{", ".join(sorted(_name(uid) for uid in SOP_CLASSES_NAMED))}."""


def _display() -> str:
    return """
## From stored values to gray levels

In this order (PS3.3 C.7.6.3, C.11.1, C.11.2, C.11.6; PS3.4 N.2): sign extension and masking to Bits Stored; Pixel Padding Value and
Range Limit (padded pixels become black and count for nothing); Modality LUT Sequence, else Rescale Slope and Intercept; VOI LUT
Sequence, else the first Window Center and Width with VOI LUT Function LINEAR, LINEAR_EXACT or SIGMOID; where there is neither, the 0.5th
to 99.5th percentile of the unpadded pixels (8-bit unsigned data are taken as they are); Presentation LUT Shape INVERSE or MONOCHROME1,
once. The answer says which it was (`image.acquisition.display`). Presentation LUT Sequence is not applied."""


def _refusals() -> str:
    def rows(codes: Iterable[str]) -> list[tuple[str, str, str]]:
        return [(f"`{c}`", str(ERROR_TABLE[c].status), ERROR_TABLE[c].detail) for c in codes if c in ERROR_TABLE]

    gate = _table(("code", "status", "detail"), rows(GATE_CODES))
    return f"""
## What is refused, and how it is said

Every refusal is `application/problem+json` with a stable `code`. Of the file:

{_table(("code", "status", "detail"), rows(FILE_CODES))}

Of the film, as the bundle's manifest says (each is refused, warned of or accepted there; `cxr bundles show` prints it):

{gate}"""


def _results() -> str:
    rows = [
        (
            f"`{kind}`",
            results.MEDIA_TYPES[kind],
            f"{_name(results.SOP_CLASSES[kind])} ({results.SOP_CLASSES[kind]})" if kind in results.SOP_CLASSES else "-",
            "DICOM film" if kind in results.NEEDS_SOURCE else "any film",
        )
        for kind in results.MEDIA_TYPES
    ]
    return f"""
## What the service makes

{_table(("object", "media type", "SOP class", "from"), rows)}

DICOM results belong to the study of their film, in a series of their own per bundle and kind, and refer to the film. The structured
report is TID 1500 with one measurement group (TID 1501) per class. UIDs are `2.25.` and follow from the film's SOP Instance UID, the
bundle's digest, the operating point, the kind of object and, where the bundle's reference did not compute, the engine: judging the
same film again makes the same object, not a second one. Character set of what is made: ISO_IR 192. Character sets that are read: those
of PS3.3 C.12.1.1.2, with code extensions."""


_INTRODUCTION = """
# DICOM conformance statement of cxr-triage

Made by `cxr conformance`; do not edit. How to connect a PACS stands in `INTEGRATION.md` beside this file.

Two programs take part. The *service* (`cxr serve`) reads single films over HTTP and answers with a judgement, or with it as DICOM, FHIR,
HL7 or PDF objects; it opens no DICOM association. The *gateway* (`cxr gateway run`) takes films by C-STORE and STOW-RS, has the service
judge them, and sends the results on by STOW-RS, C-STORE, HL7 v2 over MLLP, or signed webhooks."""

_SECURITY = """
## Security

HTTP needs a key with a role. Associations are accepted from listed peers only. TLS is the reverse proxy's and, for DICOM, a tunnel's task.
Names and identifiers of a header live in memory, and sealed (AES-256-GCM, key outside the database) in the gateway's queue until
delivery; everywhere else stand keyed pseudonyms. Executable preambles are refused."""
