"""The result objects of one judgement, on a worker thread: what has to be drawn for them, and how they are made. No I/O, no state."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime

from app import results
from app.bundle.manifest import OperatingPoint
from app.errors import ConflictError, RefusedError
from app.judging import Drawn, ExplainOptions, Refusal
from app.live import LiveBundle
from app.results import SHOWS_PICTURE, HeatMapDrawn, Report, ResultKind

Objects = Mapping[ResultKind, bytes]
_MAY_BE_LEFT_OUT = frozenset({"explanation_unavailable", "presentation_unknown"})


def drawing_for(kinds: Collection[ResultKind], live: LiveBundle) -> ExplainOptions | None:
    """What has to be drawn: the map of the decided class, for objects that show one and where the bundle has one."""
    return ExplainOptions(output="array") if live.head.available and SHOWS_PICTURE.intersection(kinds) else None


def with_objects(
    drawn: Drawn,
    kinds: Collection[ResultKind],
    live: LiveBundle,
    point: OperatingPoint,
    *,
    request_id: str,
    judged_at: datetime,
) -> tuple[Drawn, Objects]:
    """The judgement with the time that its objects took, and the objects. Of several, those are left out that this bundle or the
    display of this film does not allow; the others are still worth having.

    Raises:
        Refusal: `dicom_source_required`; `presentation_unknown` where nothing is left.
        ConflictError: `explanation_unavailable` where nothing is left.
    """
    if not kinds:
        return drawn, {}
    begun = time.perf_counter()
    report = as_report(drawn, live, point, request_id=request_id, judged_at=judged_at)
    try:
        objects = _made(kinds, report)
    except RefusedError as error:
        raise Refusal(error, drawn.judgement.radiograph.sha256) from error
    timing = {**drawn.judgement.timing_ms, "objects": (time.perf_counter() - begun) * 1e3}
    return replace(drawn, judgement=replace(drawn.judgement, timing_ms=timing)), objects


def _made(kinds: Collection[ResultKind], report: Report) -> Objects:
    objects: dict[ResultKind, bytes] = {}
    impossible: RefusedError | ConflictError | None = None
    for kind in kinds:
        try:
            objects[kind] = results.make(kind, report)
        except (RefusedError, ConflictError) as error:
            if error.code not in _MAY_BE_LEFT_OUT:
                raise
            impossible = impossible or error
    if impossible is not None and not objects:
        raise impossible
    return objects


def as_report(drawn: Drawn, live: LiveBundle, point: OperatingPoint, *, request_id: str, judged_at: datetime) -> Report:
    """Everything an object may say, from what was judged and by what."""
    judgement, manifest = drawn.judgement, live.manifest
    film = judgement.radiograph
    return Report(
        source=film.source,
        judged_at=judged_at,
        request_id=request_id,
        bundle_name=manifest.name,
        bundle_version=manifest.version,
        bundle_digest=live.bundle.digest,
        purpose=manifest.intended_use.purpose,
        limits=manifest.intended_use.limits,
        population=manifest.intended_use.population,
        engine=judgement.engine,
        decision=judgement.decision,
        point=point,
        notices=judgement.notices,
        film_width=film.width,
        film_height=film.height,
        film_sha256=film.sha256,
        heat_map=_heat_map(drawn),
        display=film.display,
        restriction=manifest.research_label,
        views=judgement.views,
    )


def _heat_map(drawn: Drawn) -> HeatMapDrawn | None:
    """The first map; objects show one."""
    if drawn.picture_array is None:
        return None
    heat, outline = drawn.judgement.maps[0], drawn.contours[0]
    return HeatMapDrawn(
        target=heat.target,
        method=heat.method,
        caption=drawn.captions[0],
        picture=drawn.picture_array,
        level=outline.level,
        contours=outline.polygons,
    )
