"""Puts the HTTP rooms onto an application: routes, error translation, documentation, and the boundary around them."""

from __future__ import annotations

import logging

from fastapi import FastAPI
from starlette.routing import Route

from app.api.assets import add_assets, load_assets
from app.api.body import rules
from app.api.boundary import Boundary
from app.api.documents import finish
from app.api.memory import InFlight
from app.api.policy import POLICIES, Table
from app.api.ports import Records, Service
from app.api.problems import install_handlers
from app.api.rate import RateLimit
from app.api.room import Room
from app.api.routes.gradcam import add_gradcam
from app.api.routes.health import add_health
from app.api.routes.predict import add_predict
from app.api.routes.reports import add_reports
from app.api.routes.watch import add_watch
from app.errors import ConfigurationError
from app.inference.cores import usable_cores
from app.metrics import Metrics
from app.settings import Settings


def install(app: FastAPI, *, settings: Settings, service: Service, records: Records, metrics: Metrics) -> None:
    """Wire everything. The documentation is made here too, so that no request waits for it.

    Raises:
        ConfigurationError: the routes and the policy table do not name the same things.
    """
    room = Room(
        service=service,
        records=records,
        metrics=metrics,
        rules=rules(settings),
        in_flight=InFlight(settings.in_flight_max_bytes, metrics.set_upload_bytes),
        batch_places=min(settings.batch_max, settings.workers or usable_cores()),
        version=app.version,
    )
    for add in (add_predict, add_gradcam, add_reports, add_health, add_watch):
        add(app, room)
    add_assets(app, load_assets())
    app.router.redirect_slashes = False
    _check_routes(app)
    install_handlers(app)
    finish(app)
    app.add_middleware(
        Boundary,
        table=Table(POLICIES),
        rules=room.rules,
        service=service,
        records=records,
        rate=RateLimit(settings.rate_limit_per_minute),
        metrics=metrics,
    )
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # its warnings quote the body


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    """Every (method, path template) that the application answers."""
    return {(method, route.path) for route in app.routes if isinstance(route, Route) for method in route.methods or ()}


def _check_routes(app: FastAPI) -> None:
    there = {
        (method, path) for method, path in routes_of(app) if method != "HEAD"
    }  # Starlette adds HEAD; the boundary does not
    if there != set(POLICIES):
        odd = ", ".join(f"{method} {path}" for method, path in sorted(there ^ set(POLICIES)))
        raise ConfigurationError("routes_and_policies", f"in the routes or in the policy table, but not in both: {odd}")
