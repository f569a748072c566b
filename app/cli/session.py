"""What the commands share: settings from the environment and a short-lived audit store."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError

from app import logs
from app.errors import ConfigurationError
from app.imaging.threads import limit_threads
from app.records import Records
from app.settings import Settings


def read_settings() -> Settings:
    """The settings of the environment.

    Raises:
        ConfigurationError: which of them are wrong and why, without their values.
    """
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"CXR_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        raise ConfigurationError("settings", "; ".join(wrong)) from None


@contextmanager
def open_records() -> Iterator[tuple[Settings, Records]]:
    """Settings and records for one command; its acts go to an audit chain of their own.

    Whatever it judges or measures runs with the threads of the service, no others: a figure taken with more would choose for it.
    """
    limit_threads()
    settings = read_settings()
    logs.configure("warning")
    records = Records.open(settings, role="cli")
    try:
        yield settings, records
    finally:
        records.close()


def operator() -> str:
    """Who acts, for the audit trail: the operating system's user name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid-{os.getuid()}"
