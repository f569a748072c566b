"""A phantom as a DICOM film, for a first request and for trying a PACS. The patient is invented and says so."""

from __future__ import annotations

import hashlib
import io
import uuid

import numpy as np
from numpy.typing import NDArray


def encode_dicom(pixels: NDArray[np.uint8]) -> bytes:
    """A Part 10 file: Computed Radiography Image, Explicit VR Little Endian, MONOCHROME2, 8 bit, PA chest of a child of four years.

    UIDs follow from the pixels (PS3.5 B.2): the same phantom is the same object.

    Args:
        pixels: uint8 [H, W].
    """
    from pydicom.dataset import Dataset, FileMetaDataset  # noqa: PLC0415 - only here; no other command pays for its import
    from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian  # noqa: PLC0415 - as above

    digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
    uids = [
        f"2.25.{uuid.UUID(bytes=hashlib.sha256(digest + bytes([i])).digest()[:16], version=5).int}" for i in range(3)
    ]
    film = Dataset()
    film.SpecificCharacterSet = "ISO_IR 192"
    film.ImageType = ["ORIGINAL", "PRIMARY"]
    film.SOPClassUID = ComputedRadiographyImageStorage
    film.StudyInstanceUID, film.SeriesInstanceUID, film.SOPInstanceUID = uids
    film.StudyDate = film.SeriesDate = film.AcquisitionDate = film.ContentDate = "20260101"
    film.StudyTime = film.ContentTime = "120000"
    film.AccessionNumber, film.StudyID = "", "1"
    film.Modality, film.Manufacturer, film.ReferringPhysicianName = "CR", "cxr-triage", ""
    film.StudyDescription = "Generated phantom, no patient"
    film.PatientName, film.PatientID = "Phantom^Generated", f"PHANTOM-{digest.hex()[:8]}"
    film.PatientBirthDate, film.PatientSex, film.PatientAge = "20211231", "O", "004Y"
    film.BodyPartExamined, film.ViewPosition, film.PatientOrientation = "CHEST", "PA", ["L", "F"]
    film.SeriesNumber, film.InstanceNumber = 1, 1
    film.BurnedInAnnotation = "NO"
    film.SamplesPerPixel, film.PhotometricInterpretation, film.PixelRepresentation = 1, "MONOCHROME2", 0
    film.Rows, film.Columns = pixels.shape
    film.BitsAllocated, film.BitsStored, film.HighBit = 8, 8, 7
    film.WindowCenter, film.WindowWidth = 128, 256
    data = pixels.tobytes()
    film.PixelData = data + b"\0" * (len(data) % 2)
    film["PixelData"].VR = "OB"
    film.file_meta = FileMetaDataset()
    film.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    buffer = io.BytesIO()
    film.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
