"""What a DICOM storage status means for a delivery: C-STORE answers (PS3.4 table B.2-1) and the failure reasons of STOW-RS."""

from __future__ import annotations

from app.gateway.outbox import DELIVERED, Outcome

_DUPLICATE = 0x0111  # duplicate SOP instance: it is there
_PROCESSING_FAILURE = 0x0110


def of_status(status: int, protocol: str) -> Outcome:
    """Success and warnings are deliveries; out of resources (0xA7xx) and processing failures heal; the rest is dead.

    Args:
        protocol: the first word of the code, `stow` or `dimse`.
    """
    if status in {0x0000, 0x0001, 0x0107, 0x0116, _DUPLICATE} or 0xB000 <= status <= 0xBFFF:
        return DELIVERED
    code = f"{protocol}_{status & 0xFFFF:04x}"
    if status == _PROCESSING_FAILURE or 0xA700 <= status <= 0xA7FF:
        return Outcome("retry", code)
    return Outcome("dead", code)
