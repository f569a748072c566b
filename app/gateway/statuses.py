"""What is said about a film that was offered, in DICOM's own numbers: Status of C-STORE and Failure Reason of STOW-RS are the same table.

PS3.4 annex B.2.3 and PS3.18 annex I.2:

    0x0000  the film is durable (or was already, or no rule wants it)
    0xA700  out of resources: the store is full, locked or away; send it again
    0xA900  the data set is another object, or of another study, than the message says
    0x0122  this kind of object is not taken
    0xC122  this transfer syntax is not taken
    0xC000  cannot understand: the data set is damaged or too large
    0x0110  a fault of ours
"""

from __future__ import annotations

from app.errors import CxrError, ImageError, UnavailableError

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
MISMATCH = 0xA900
NO_SUCH_CLASS = 0x0122
NO_SUCH_SYNTAX = 0xC122
CANNOT_UNDERSTAND = 0xC000
FAULT = 0x0110

_OF_CODE = {
    "dicom_without_image": NO_SUCH_CLASS,
    "unsupported_format": NO_SUCH_CLASS,
    "unsupported_transfer_syntax": NO_SUCH_SYNTAX,
}


class MismatchError(ImageError):
    """The data set is not the object that was announced."""

    def __init__(self) -> None:
        super().__init__("malformed_dicom", what="its UIDs are not those it was announced with")


def status_of(error: CxrError) -> int:
    """The number that says what an error of ours says."""
    if isinstance(error, MismatchError):
        return MISMATCH
    if isinstance(error, UnavailableError):
        return OUT_OF_RESOURCES
    if error.code in _OF_CODE:
        return _OF_CODE[error.code]
    return CANNOT_UNDERSTAND if error.status < 500 else FAULT
