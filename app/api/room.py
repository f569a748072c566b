"""What every route is built with. Made once, in `install`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.api.body import BodyRule
from app.api.memory import InFlight
from app.api.policy import Body
from app.api.ports import Records, Service
from app.metrics import Metrics


@dataclass(frozen=True)
class Room:
    """batch_places: films of one batch that are judged at one time."""

    service: Service
    records: Records
    metrics: Metrics
    rules: Mapping[Body, BodyRule]
    in_flight: InFlight
    batch_places: int
    version: str
