"""The one-page report as a DICOM object: Encapsulated PDF (PS3.3 A.45.1, C.24)."""

from __future__ import annotations

from highdicom import SOPClass
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

from app.results import dicom_object, pdf, wording
from app.results.identity import require_film
from app.results.report import Report


def render(report: Report) -> bytes:
    source = require_film(report.source, "An encapsulated PDF")
    page = pdf.render(report)
    data = SOPClass(
        study_instance_uid=dicom_object.stand_in_film().StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **dicom_object.common_arguments(report, "pdf_dicom"),
    )
    data.AcquisitionDateTime = None
    data.ConversionType = "WSD"
    data.BurnedInAnnotation = "YES"  # the page names the patient
    data.DocumentTitle = wording.TITLE
    data.ConceptNameCodeSequence = [_title()]
    data.SourceInstanceSequence = [dicom_object.source_reference()]
    data.MIMETypeOfEncapsulatedDocument = "application/pdf"
    data.EncapsulatedDocumentLength = len(page)
    data.EncapsulatedDocument = page  # padded to an even length as it is written
    return dicom_object.finished(data, report, source)


def _title() -> Dataset:
    """CID 7020, document titles: LOINC 18748-4."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "18748-4", "LN", "Diagnostic imaging report"
    return item
