"""Sends one generated film to the PACS of the compose file, as a modality would. Run inside the gateway's container."""

from __future__ import annotations

import io

from pydicom import dcmread
from pynetdicom import AE

from app.imaging.phantom import phantom
from app.imaging.phantom_dicom import encode_dicom

film = dcmread(io.BytesIO(encode_dicom(phantom(7))))
modality = AE("MODALITY")
modality.add_requested_context(film.SOPClassUID, film.file_meta.TransferSyntaxUID)
association = modality.associate("orthanc", 4242, ae_title="ORTHANC")
status = association.send_c_store(film).get("Status") if association.is_established else None
association.release()
if status != 0:
    raise SystemExit(f"status {status}")
