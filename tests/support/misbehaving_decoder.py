"""A decoder process that decodes as the real one, but misbehaves as told on frames of `BAD_COLUMNS` columns.

Run by its path, by a subclass of `DecoderPool` in the tests; nothing in `app` can start it.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from typing import Any

from app.imaging.dicom import decoder_process, frame_codecs
from app.imaging.dicom.decoder_protocol import DECODED, Job, pack_answer

BAD_COLUMNS = 13


def misbehave(behaviour: str, job: Job, memory_bytes: int) -> None:
    if behaviour == "abort":
        os.abort()
    elif behaviour == "gdcm":
        gdcm_that_aborts()
    elif behaviour == "exit":
        os._exit(0)
    elif behaviour == "sleep":
        time.sleep(3_600)
    elif behaviour == "spin":
        while True:
            pass
    elif behaviour == "memory":
        bytearray(memory_bytes)
    elif behaviour == "exception":
        raise RuntimeError
    else:
        CHANNEL.send(packet(behaviour, job))
        time.sleep(3_600)


def packet(behaviour: str, job: Job) -> bytes:
    """What is sent instead of an answer, without any samples having been written."""
    serial = 2 if behaviour != "other serial" else 3
    return {
        "nothing": b"",
        "rubbish": b"\xff" * 16,
        "too long": pack_answer(DECODED, serial, job.frame_bytes) + b"\0",
        "huge": b"\0" * 100_000,
        "other serial": pack_answer(DECODED, serial, job.frame_bytes),
        "other size": pack_answer(DECODED, serial, job.frame_bytes + 1),
        "unknown outcome": pack_answer(9, serial, 0),
        "no samples": pack_answer(DECODED, serial, job.frame_bytes),
    }[behaviour]


def gdcm_that_aborts() -> None:
    """python-gdcm 3.2.6: a JPEG-LS codestream with fewer samples than the header's sides ends in std::terminate."""
    import gdcm
    import jpeg_ls
    import numpy as np

    coded = bytes(jpeg_ls.encode_array((np.arange(4_096) % 251).astype(np.uint8).reshape(64, 64)))
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(coded)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((80, 64, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType("1.2.840.10008.1.2.4.80")))
    image.SetPixelFormat(gdcm.PixelFormat(1, 8, 8, 7, 0))
    image.GetBuffer()
    os._exit(77)  # a gdcm that no longer aborts: the test says so by another message


def decode_or_misbehave(job: Job, codestream: bytes) -> Any:
    if job.columns == BAD_COLUMNS:
        misbehave(sys.argv[2], job, int(sys.argv[1]))
    return _decode(job, codestream)


if __name__ == "__main__":
    CHANNEL = socket.socket(fileno=os.dup(0))
    _decode = frame_codecs.decode_frame
    frame_codecs.decode_frame = decode_or_misbehave
    decoder_process.main()
