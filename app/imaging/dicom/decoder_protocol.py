"""What the service and a decoder process say to each other; the only file both sides import.

One SEQPACKET socket per child (its standard input), one packet per message, and with each request one memfd. The service writes the
codestream into the memfd, the child appends the samples. Nothing touches a file system. The child announces `READY` once.

A packet that is not exactly of its structure ends the child. `VERSION` is raised with any change here; both sides always come from one
installation, so there is no older peer to understand.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from app.imaging.dicom.frame import FrameRequest

VERSION = 1
READY = b"CXRD\x01ready"
_REQUEST = struct.Struct(
    "<4sBBHHHBBBBBBQ"
)  # magic, version, syntax, serial, rows, columns, six numbers of the frame, bytes
_ANSWER = struct.Struct("<4sBBHQ")  # magic, version, outcome, serial, bytes
REQUEST_BYTES, ANSWER_BYTES = _REQUEST.size, _ANSWER.size
_MAGIC = b"CXRD"

JPEG_BASELINE = "1.2.840.10008.1.2.4.50"
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
JPEG_LOSSLESS = "1.2.840.10008.1.2.4.57"
JPEG_LOSSLESS_SV1 = "1.2.840.10008.1.2.4.70"
JPEG_LS_LOSSLESS = "1.2.840.10008.1.2.4.80"
JPEG_LS_NEAR_LOSSLESS = "1.2.840.10008.1.2.4.81"
JPEG_2000_LOSSLESS = "1.2.840.10008.1.2.4.90"
JPEG_2000 = "1.2.840.10008.1.2.4.91"
HTJ2K_LOSSLESS = "1.2.840.10008.1.2.4.201"
HTJ2K_LOSSLESS_RPCL = "1.2.840.10008.1.2.4.202"
HTJ2K = "1.2.840.10008.1.2.4.203"
RLE_LOSSLESS = "1.2.840.10008.1.2.5"

SYNTAXES = (
    JPEG_BASELINE,
    JPEG_EXTENDED,
    JPEG_LOSSLESS,
    JPEG_LOSSLESS_SV1,
    JPEG_LS_LOSSLESS,
    JPEG_LS_NEAR_LOSSLESS,
    JPEG_2000_LOSSLESS,
    JPEG_2000,
    HTJ2K_LOSSLESS,
    HTJ2K_LOSSLESS_RPCL,
    HTJ2K,
    RLE_LOSSLESS,
)
"""Every encapsulated transfer syntax that is decoded (PS3.5 section 10 and Annex A.4)."""

PHOTOMETRICS = ("MONOCHROME1", "MONOCHROME2", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")

DECODED, DAMAGED, OUT_OF_MEMORY = 0, 1, 2
OUTCOMES = (DECODED, DAMAGED, OUT_OF_MEMORY)


@dataclass(frozen=True)
class Job:
    """A request as the child sees it, without the codestream. precision: bits of a sample as the codestream itself states."""

    transfer_syntax: str
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int
    precision: int
    signed: bool
    photometric: str
    codestream_bytes: int

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.samples * (self.bits_allocated // 8)

    @staticmethod
    def of(request: FrameRequest, precision: int) -> Job:
        return Job(
            transfer_syntax=request.transfer_syntax,
            rows=request.rows,
            columns=request.columns,
            samples=request.samples,
            bits_allocated=request.bits_allocated,
            bits_stored=request.bits_stored,
            precision=precision,
            signed=request.signed,
            photometric=request.photometric,
            codestream_bytes=len(request.codestream),
        )

    def pack(self, serial: int) -> bytes:
        return _REQUEST.pack(
            _MAGIC,
            VERSION,
            SYNTAXES.index(self.transfer_syntax),
            serial,
            self.rows,
            self.columns,
            self.samples,
            self.bits_allocated,
            self.bits_stored,
            self.precision,
            int(self.signed),
            PHOTOMETRICS.index(self.photometric),
            self.codestream_bytes,
        )

    @staticmethod
    def unpack(packet: bytes) -> tuple[Job, int]:
        """The job and its serial number.

        Raises:
            ValueError, IndexError, struct.error for anything but a request of this version.
        """
        magic, version, syntax, serial, rows, columns, *numbers = _REQUEST.unpack(packet)
        samples, allocated, stored, precision, signed, photometric, codestream_bytes = numbers
        if (magic, version) != (_MAGIC, VERSION):
            raise ValueError("not a request of this version")
        return Job(
            transfer_syntax=SYNTAXES[syntax],
            rows=rows,
            columns=columns,
            samples=samples,
            bits_allocated=allocated,
            bits_stored=stored,
            precision=precision,
            signed=bool(signed),
            photometric=PHOTOMETRICS[photometric],
            codestream_bytes=codestream_bytes,
        ), serial


def pack_answer(outcome: int, serial: int, frame_bytes: int) -> bytes:
    """frame_bytes: what the child wrote; the service takes it only as a further check of its own number."""
    return _ANSWER.pack(_MAGIC, VERSION, outcome, serial, frame_bytes)


def unpack_answer(packet: bytes, job: Job, serial: int) -> int:
    """The outcome (one of `OUTCOMES`) of `job`, sent under `serial`.

    Raises:
        ValueError: the packet is no answer to it.
    """
    if len(packet) != ANSWER_BYTES:
        raise ValueError("not an answer")
    outcome: int
    magic, version, outcome, echoed, frame_bytes = _ANSWER.unpack(packet)
    if (magic, version, echoed) != (_MAGIC, VERSION, serial) or outcome not in OUTCOMES:
        raise ValueError("not an answer to this request")
    if frame_bytes != (job.frame_bytes if outcome == DECODED else 0):
        raise ValueError("an answer of another size")
    return outcome
