"""Coded concepts of the results: SNOMED CT and DICOM codes where there is one, else this project's own scheme."""

from __future__ import annotations

import hashlib
from typing import Final, NamedTuple

PRIVATE_SCHEME: Final = "99CXRTRIAGE"  # "99" marks a private scheme (PS3.3 8.2)
PRIVATE_SCHEME_NAME: Final = "cxr-triage result codes"


class Concept(NamedTuple):
    """value: at most 16 characters; scheme: coding scheme designator of PS3.16 section 8; meaning: at most 64 characters."""

    value: str
    scheme: str
    meaning: str


# findings; class names are those of bundle manifests
_FINDINGS: Final = {
    "normal": Concept("17621005", "SCT", "Normal"),
    "no_finding": Concept("111286", "DCM", "No abnormality"),
    "pneumonia": Concept("233604007", "SCT", "Pneumonia"),
    "bacterial_pneumonia": Concept("53084003", "SCT", "Bacterial pneumonia"),
    "viral_pneumonia": Concept("75570004", "SCT", "Viral pneumonia"),
    "covid": Concept("840539006", "SCT", "COVID-19"),
    "tuberculosis": Concept("154283005", "SCT", "Pulmonary tuberculosis"),
    "atelectasis": Concept("46621007", "SCT", "Atelectasis"),
    "cardiomegaly": Concept("8186001", "SCT", "Cardiomegaly"),
    "consolidation": Concept("95436008", "SCT", "Lung consolidation"),
    "edema": Concept("19242006", "SCT", "Pulmonary edema"),
    "effusion": Concept("60046008", "SCT", "Pleural effusion"),
    "pleural_effusion": Concept("60046008", "SCT", "Pleural effusion"),
    "emphysema": Concept("87433001", "SCT", "Pulmonary emphysema"),
    "fibrosis": Concept("51615001", "SCT", "Fibrosis of lung"),
    "infiltration": Concept("112121", "DCM", "Infiltrate"),
    "nodule": Concept("27925004", "SCT", "Nodule"),
    "mass": Concept("4147007", "SCT", "Mass"),
    "pneumothorax": Concept("36118008", "SCT", "Pneumothorax"),
}

PROBABILITY: Final = Concept("probability", PRIVATE_SCHEME, "Calibrated probability of the finding")
MARGIN: Final = Concept("margin", PRIVATE_SCHEME, "Margin in logit units")
THRESHOLD_MARGIN: Final = Concept(
    "threshold-margin", PRIVATE_SCHEME, "Margin at or above which the finding is positive"
)
THRESHOLD_PROBABILITY: Final = Concept("threshold-prob", PRIVATE_SCHEME, "Probability shown at the threshold")
DECISION: Final = Concept("decision", PRIVATE_SCHEME, "Decision at the operating point")
LABEL: Final = Concept("label", PRIVATE_SCHEME, "Triage label")
POSITIVE: Final = Concept("10828004", "SCT", "Positive")
NEGATIVE: Final = Concept("260385009", "SCT", "Negative")
NO_UNITS: Final = Concept("1", "UCUM", "no units")
COMMENT: Final = Concept("121106", "DCM", "Comment")
QUALITATIVE_EVALUATIONS: Final = Concept("C0034375", "UMLS", "Qualitative Evaluations")
STUDY: Final = Concept("113014", "DCM", "DICOM Study")
PLAIN_CHEST: Final = Concept("399208008", "SCT", "Plain chest X-ray")
IMAGING_STUDY: Final = Concept("18748-4", "LN", "Diagnostic imaging study")


def finding(class_name: str) -> Concept:
    """The concept of a class; a class without a public code has its own name as private code."""
    return _FINDINGS.get(class_name) or Concept(_private_value(class_name), PRIVATE_SCHEME, readable(class_name))


def verdict(positive: bool) -> Concept:
    return POSITIVE if positive else NEGATIVE


def readable(class_name: str) -> str:
    """`no_finding` -> `No finding`; class names have at most 64 characters."""
    return class_name.replace("_", " ").capitalize()


def _private_value(class_name: str) -> str:
    """At most 16 characters (SH); a longer name is cut and told apart by a hash of the whole."""
    if len(class_name) <= 16:
        return class_name
    return f"{class_name[:9]}-{hashlib.sha256(class_name.encode()).hexdigest()[:6]}"
