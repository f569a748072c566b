"""Records: the audit chain, predictions, API keys and the bundle history in SQL, and the key ring beside it."""

from app.records.choices import EngineChoice
from app.records.database import migrate
from app.records.events import AuditEvent, EventId, PredictionRecord
from app.records.history import HistoryRow
from app.records.idempotency import KeyUse, Repeated
from app.records.keyring import KeyRing
from app.records.keys import KeyInfo
from app.records.keytext import KeyText, new_key_text, parse_key_text
from app.records.predictions import PredictionWindow
from app.records.records import Records
from app.records.sources import FoundFilm
from app.records.verify import Problem, VerifyReport, verify

__all__ = [
    "AuditEvent",
    "EngineChoice",
    "EventId",
    "FoundFilm",
    "HistoryRow",
    "KeyInfo",
    "KeyRing",
    "KeyText",
    "KeyUse",
    "PredictionRecord",
    "PredictionWindow",
    "Problem",
    "Records",
    "Repeated",
    "VerifyReport",
    "migrate",
    "new_key_text",
    "parse_key_text",
    "verify",
]
