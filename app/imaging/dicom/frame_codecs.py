"""The codecs themselves. Imported by the decoder process only: a codec that crashes must not take the service with it.

One named library per transfer syntax, chosen by measurement (benchmarks/transfer_syntaxes.py) among those that are exact:
libjpeg-turbo for JPEG baseline, gdcm for 12-bit and lossless JPEG and RLE, CharLS for JPEG-LS, OpenJPEG for JPEG 2000 and HTJ2K.
"""

from __future__ import annotations

from typing import Any, cast

import gdcm
import jpeg_ls
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from openjpeg.utils import decode as decode_jpeg_2000

from app.imaging.dicom import decoder_protocol as syntax
from app.imaging.dicom.decoder_protocol import Job

Samples = NDArray[Any]


class DamagedError(Exception):
    """The codec could not decode; says nothing about the content."""


def decode_frame(job: Job, codestream: bytes) -> Samples:
    """Stored values, [rows, columns] or RGB [rows, columns, 3], of the type that `FrameDecoder.decode` promises.

    Raises:
        DamagedError: the codec refused, or gave another number of samples.
        MemoryError: the limit of this process is reached.
    """
    if job.transfer_syntax == syntax.JPEG_BASELINE or (
        job.transfer_syntax == syntax.JPEG_EXTENDED and job.precision == 8
    ):
        samples = _libjpeg_turbo(job, codestream)
    elif job.transfer_syntax in (syntax.JPEG_LS_LOSSLESS, syntax.JPEG_LS_NEAR_LOSSLESS):
        samples = _rgb(job, _charls(job, codestream))
    elif job.transfer_syntax in (
        syntax.JPEG_EXTENDED,
        syntax.JPEG_LOSSLESS,
        syntax.JPEG_LOSSLESS_SV1,
        syntax.RLE_LOSSLESS,
    ):
        samples = _rgb(job, _gdcm(job, codestream))
    else:
        samples = _rgb(job, _open_jpeg(job, codestream))
    return _stored_values(job, samples)


def _shaped(job: Job, flat: Samples) -> Samples:
    if flat.size != job.rows * job.columns * job.samples:
        raise DamagedError
    return flat.reshape((job.rows, job.columns) if job.samples == 1 else (job.rows, job.columns, 3))


def _libjpeg_turbo(job: Job, codestream: bytes) -> Samples:
    """8-bit DCT JPEG; slow exact DCT and upsampling, any warning of the library is damage (truncated scans).

    Which colours three components are: JFIF and Adobe markers say it; without either, libjpeg guesses from component ids and the
    photometric interpretation knows (PS3.5 8.2.1). An Adobe marker put in front is the way to tell libjpeg.
    """
    head = codestream[: codestream.find(b"\xff\xda")]
    if job.samples == 3 and b"JFIF" not in head and b"Adobe" not in head:
        transform = b"\x00" if job.photometric == "RGB" else b"\x01"
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + transform
        codestream = codestream[:2] + adobe + codestream[2:]
    try:
        samples = simplejpeg.decode_jpeg(codestream, colorspace="GRAY" if job.samples == 1 else "RGB", strict=True)
    except ValueError as error:
        raise DamagedError from error
    return _shaped(job, samples.reshape(-1))


def _gdcm(job: Job, codestream: bytes) -> Samples:
    """gdcm 3.2.6 gives components as they are coded, color-by-pixel, in a container by the bits of the pixel format."""
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(codestream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((job.columns, job.rows, 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2" if job.samples == 1 else "RGB")
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(job.transfer_syntax)))
    bits = job.bits_allocated if job.transfer_syntax == syntax.RLE_LOSSLESS else job.precision
    image.SetPixelFormat(gdcm.PixelFormat(job.samples, job.bits_allocated, bits, bits - 1, 0))
    text = image.GetBuffer()  # the bytes as a str with surrogates; None where the codec refused
    if text is None:
        raise DamagedError
    data = text.encode("utf-8", "surrogateescape")
    if len(data) != job.frame_bytes:
        raise DamagedError
    return _shaped(job, np.frombuffer(data, f"<u{job.bits_allocated // 8}"))


def _charls(job: Job, codestream: bytes) -> Samples:
    try:
        data, info = jpeg_ls.decode_buffer(codestream)
    except (RuntimeError, ValueError) as error:
        raise DamagedError from error
    flat = np.frombuffer(data, "<u2" if info["bits_per_sample"] > 8 else "u1")
    if job.samples == 3 and info["interleave_mode"] == 0:  # T.87 C.2.3: one scan per component
        if flat.size != 3 * job.rows * job.columns:
            raise DamagedError
        flat = flat.reshape(3, -1).T.reshape(-1)
    return _shaped(job, flat)


def _open_jpeg(job: Job, codestream: bytes) -> Samples:
    """OpenJPEG undoes the component transform, so that YBR_RCT and YBR_ICT come out as RGB; strict, so that truncation is damage."""
    try:
        data = decode_jpeg_2000(codestream, j2k_format=0, reshape=False)
    except RuntimeError as error:
        raise DamagedError from error
    return _shaped(job, data.view("<u2" if job.precision > 8 else "u1"))


def _rgb(job: Job, samples: Samples) -> Samples:
    """YBR_FULL to RGB (PS3.3 C.7.6.3.1.2, the formula of ITU-R BT.601 on full range), rounded."""
    if job.photometric not in ("YBR_FULL", "YBR_FULL_422"):
        return samples
    y, cb, cr = (samples[..., channel].astype(np.float32) - offset for channel, offset in ((0, 0), (1, 128), (2, 128)))
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)
    return cast(Samples, np.clip(np.rint(rgb), 0, 255).astype(np.uint8))


def _stored_values(job: Job, samples: Samples) -> Samples:
    """The container and sign of the header. A sample lies in its own bits (PS3.5 8.1.1): those of Bits Stored, or those of the
    codestream where it has fewer. Bits above them mean nothing; they become the sign (two's complement) or zero."""
    unsigned = samples.astype(f"<u{job.bits_allocated // 8}", copy=False)
    shift = job.bits_allocated - min(job.bits_stored, job.precision)
    if job.signed:
        return (unsigned << shift).view(f"<i{job.bits_allocated // 8}") >> shift
    return (unsigned << shift) >> shift if shift else unsigned
