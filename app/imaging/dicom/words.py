"""Closed lists: the words and codes of a header that may travel on as facts. Anything else becomes `other`.

Sources: PS3.3 C.7.3.1.1.1 (modality), C.8.7.1 and C.8.11.5 (view position), PS3.16 Annex L (body parts) and CID 4010 (views; SNOMED CT
codes and the older SNOMED-RT identifiers that PS3.16 Annex O maps to them), PS3.6 Annex A (SOP classes).
"""

from __future__ import annotations

from typing import Final

OTHER: Final = "other"

MODALITIES: Final = frozenset((
    "CR", "DX", "CT", "MR", "US", "NM", "PT", "XA", "RF", "RG", "MG", "IO", "PX", "OT", "SC", "ES", "XC", "SM", "OP", "OPT", "GM", "DG",
    "IVUS", "BMD", "HC", "RTIMAGE", "TG", "BI", "LS", "DMS", "SR", "DOC", "PR", "SEG", "ECG",
))  # fmt: skip

BODY_PARTS: Final = frozenset((
    "ABDOMEN", "ABDOMENPELVIS", "ANKLE", "ARM", "BACK", "BREAST", "CALCANEUS", "CHEST", "CHESTABDOMEN", "CHESTABDPELVIS", "CLAVICLE",
    "COCCYX", "CSPINE", "ELBOW", "EXTREMITY", "FACE", "FEMUR", "FINGER", "FOOT", "FOREARM", "HAND", "HEAD", "HEADNECK", "HEART", "HIP",
    "HUMERUS", "JAW", "KNEE", "LEG", "LSPINE", "LSSPINE", "LUNG", "MANDIBLE", "NECK", "NECKCHEST", "PELVIS", "RIB", "RIBCAGE", "RIBS",
    "SACRUM", "SCAPULA", "SHOULDER", "SKULL", "SPINE", "STERNUM", "THIGH", "THORAX", "THUMB", "TIBIA", "TOE", "TRACHEA", "TSPINE",
    "WHOLEBODY", "WRIST",
))  # fmt: skip

BODY_PART_CODES: Final = {
    "51185008": "CHEST", "T-D3000": "CHEST", "43799004": "CHEST", "T-D3200": "CHEST",
    "39607008": "LUNG", "T-28000": "LUNG", "113197003": "RIB", "T-11300": "RIB", "56873002": "STERNUM", "T-11210": "STERNUM",
    "113345001": "ABDOMEN", "818981001": "ABDOMEN", "T-D4000": "ABDOMEN", "69536005": "HEAD", "T-D1100": "HEAD",
    "45048000": "NECK", "T-D1600": "NECK", "12921003": "PELVIS", "T-D6000": "PELVIS", "421060004": "SPINE", "T-11500": "SPINE",
}  # fmt: skip

VIEWS: Final = {
    **{word: word for word in ("AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAO", "RAO", "LPO", "RPO", "OBLIQUE")},
    "LAT": "LATERAL", "LLAT": "LL", "RLAT": "RL", "LEFT LATERAL": "LL", "RIGHT LATERAL": "RL",
    "ANTEROPOSTERIOR": "AP", "POSTEROANTERIOR": "PA",
}  # fmt: skip

VIEW_CODES: Final = {
    "399348003": "AP", "R-10206": "AP",
    "272479007": "PA", "R-10214": "PA", "R-40888": "PA",
    "399173006": "LL", "R-10236": "LL", "399198007": "RL", "R-10232": "RL",
    "399067008": "LATERAL", "R-102CD": "LATERAL",
    "399135007": "LAO", "R-10220": "LAO", "399356000": "RAO", "R-40985": "RAO",
    "399006002": "LPO", "R-10212": "LPO", "399038007": "RPO", "R-10210": "RPO",
    "399182000": "OBLIQUE", "R-102C1": "OBLIQUE", "399184004": "OBLIQUE", "R-10238": "OBLIQUE",
    "399236003": "OBLIQUE", "R-10234": "OBLIQUE", "260427002": "OBLIQUE", "R-40783": "OBLIQUE",
}  # fmt: skip

_IMAGES = "1.2.840.10008.5.1.4.1.1"
FOR_PROCESSING: Final = frozenset(f"{_IMAGES}.{n}" for n in ("1.1.1", "1.2.1", "1.3.1", "13.1.5"))
SOP_CLASSES: Final = FOR_PROCESSING | frozenset(
    f"{_IMAGES}.{n}"
    for n in (
        "1", "1.1", "1.2", "1.3", "2", "2.1", "3.1", "4", "4.1", "6.1", "7", "7.1", "7.2", "7.3", "7.4", "12.1", "12.1.1", "12.2",
        "12.2.1", "13.1.1", "13.1.2", "13.1.3", "13.1.4", "20", "77.1.1", "77.1.2", "77.1.4", "77.1.6", "128", "481.1",
    )
)  # fmt: skip
