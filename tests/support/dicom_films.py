"""Chest phantoms as DICOM files, with an invented patient whose every identifier is a canary that can be searched for."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian

from app.imaging.phantom import phantom

CANARY = "ZZCANARY"  # every person field and every identifier of the invented patient holds this word
PATIENT = {
    "PatientName": f"{CANARY}LAST^{CANARY}FIRST",
    "PatientID": f"{CANARY}-ID-4711",
    "IssuerOfPatientID": f"{CANARY}ISSUER",
    "OtherPatientIDs": f"{CANARY}OTHER",
    "PatientBirthDate": "20170305",
    "PatientSex": "F",
    "PatientAddress": f"{CANARY} STREET 1",
    "PatientTelephoneNumbers": f"{CANARY}555",
    "PatientComments": f"{CANARY} COMMENT",
    "ReferringPhysicianName": f"{CANARY}REF^DOC",
    "PerformingPhysicianName": f"{CANARY}PERF^DOC",
    "OperatorsName": f"{CANARY}OP^TECH",
    "RequestingPhysician": f"{CANARY}REQ^DOC",
    "InstitutionName": f"{CANARY} HOSPITAL",
    "InstitutionAddress": f"{CANARY} ADDRESS",
    "AccessionNumber": f"{CANARY}ACC1",
    "StudyID": f"{CANARY}ST1",
    "StudyDescription": f"{CANARY} STUDY",
    "SeriesDescription": f"{CANARY} SERIES",
    "StationName": f"{CANARY}STN",
    "DeviceSerialNumber": f"{CANARY}SER",
}


def dicom_film(
    seed: int = 1,
    *,
    pixels: NDArray[Any] | None = None,
    bits_stored: int = 12,
    size: tuple[int, int] = (512, 448),
    uid_root: str = "1.2.826.0.1.3680043.10.1000",
    **attributes: Any,
) -> bytes:
    """A CR film, explicit VR little endian, MONOCHROME2, PA, CHEST, four years old; `attributes` (DICOM keywords) replace or, with
    None, remove elements. Different seeds are different patients' films in different studies; UIDs follow from the seed."""
    data = file_dataset(seed, pixels=pixels, bits_stored=bits_stored, size=size, uid_root=uid_root, **attributes)
    return as_bytes(data)


def file_dataset(
    seed: int = 1,
    *,
    pixels: NDArray[Any] | None = None,
    bits_stored: int = 12,
    size: tuple[int, int] = (512, 448),
    uid_root: str = "1.2.826.0.1.3680043.10.1000",
    **attributes: Any,
) -> Dataset:
    """The same as a pydicom dataset with file meta, to be changed further."""
    if pixels is None:
        eight = phantom(seed, height=size[0], width=size[1])
        pixels = (eight.astype(np.uint32) * (2**bits_stored - 1) // 255).astype(
            np.uint16 if bits_stored > 8 else np.uint8
        )
    data = Dataset()
    data.SpecificCharacterSet = "ISO_IR 192"
    data.ImageType = ["ORIGINAL", "PRIMARY"]
    data.SOPClassUID = ComputedRadiographyImageStorage
    data.SOPInstanceUID = f"{uid_root}.{seed}.3"
    data.StudyInstanceUID = f"{uid_root}.{seed}.1"
    data.SeriesInstanceUID = f"{uid_root}.{seed}.2"
    data.StudyDate, data.StudyTime, data.ContentDate, data.ContentTime = "20210401", "101112", "20210401", "101113"
    data.Modality, data.BodyPartExamined, data.ViewPosition = "CR", "CHEST", "PA"
    data.PatientOrientation = ["L", "F"]
    data.PatientAge = "004Y"
    data.SeriesNumber, data.InstanceNumber = 1, 1
    data.Manufacturer = "Phantom Works"
    data.BurnedInAnnotation = "NO"
    data.PixelSpacing = [0.2, 0.2]
    for name, value in PATIENT.items():
        setattr(data, name, value)
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = pixels.shape[:2]
    data.BitsAllocated = pixels.dtype.itemsize * 8
    data.BitsStored, data.HighBit = bits_stored, bits_stored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.WindowCenter, data.WindowWidth = 2 ** (bits_stored - 1), 2**bits_stored
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OW" if data.BitsAllocated == 16 else "OB"
    for name, value in attributes.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return data


def as_bytes(data: Dataset) -> bytes:
    """A Part 10 file with preamble and meta."""
    buffer = io.BytesIO()
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
