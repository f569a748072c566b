"""Every setting of the service: a typed field, a sentence, a unit in the name. Read once, passed down.

Environment variables carry the prefix `CXR_`; a Docker secret is a file of that name in `CXR_SECRETS_DIR` only where this
page says so. A test fails when a field is missing from the README's table.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """Typed settings; see the README's table for the sentences below."""

    model_config = SettingsConfigDict(env_prefix="CXR_", env_ignore_empty=True, frozen=True, extra="ignore")

    # where
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    state_dir: Path = Field(
        PROJECT_ROOT / ".state",
        description="Folder for the database, the key ring, anchors and caches; local disk only.",
    )
    secrets_dir: Path | None = Field(
        None, description="Folder of the key ring (keyring.json); default: `secrets` in the state folder."
    )
    database_url: str | None = Field(
        None,
        description="SQLAlchemy URL (sqlite:///... or postgresql+pg8000://...); default: SQLite in the state folder.",
    )
    database_password_file: Path | None = Field(
        None, description="File with the database password, put into `database_url`, which then holds none."
    )
    bundles_dir: Path = Field(PROJECT_ROOT / "model_bundles", description="Folder of bundles, <name>/<version>/.")
    bundle: str | None = Field(None, description="Pins one bundle, `name/version`; activation then answers `pinned`.")
    accept_failed_gate: bool = Field(
        False,
        description="Whether `latest` and CXR_BUNDLE may name a bundle that failed its promotion gate; "
        "activation asks for `--accept-failed-gate` instead.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severe level that is logged."
    )

    # request limits, all checked before buffering
    upload_max_bytes: int = Field(10_000_000, ge=1_000, description="Largest JPEG or PNG file.")
    batch_max: int = Field(10, ge=1, le=100, description="Most files in one batch request.")
    batch_max_bytes: int = Field(
        32_000_000,
        ge=1_000,
        description="Most bytes of a batch request that are not DICOM; with DICOM films it may be half of all in flight.",
    )
    in_flight_max_bytes: int = Field(
        128_000_000, ge=1_000, description="Most body bytes held at one time by all requests together."
    )
    body_deadline_s: float = Field(30.0, gt=0, description="A request body must have arrived after this time.")
    rate_limit_per_minute: int = Field(
        6_000, ge=1, description="Requests a key may make per minute (sliding window), of each replica."
    )
    image_min_px: int = Field(128, ge=1, description="Shortest accepted side of a JPEG or PNG.")
    image_max_px: int = Field(4_096, ge=64, description="Longest accepted side of a JPEG or PNG.")
    dicom_max_bytes: int = Field(
        64_000_000, ge=1_000, description="Largest DICOM file; also what a deflated one may become."
    )
    dicom_max_px: int = Field(8_192, ge=64, description="Longest accepted side of a DICOM image.")
    dicom_decode_timeout_s: float = Field(
        10.0,
        gt=0,
        description="A compressed DICOM image must be decoded after this time, or its decoder process is ended.",
    )
    dicom_decode_max_bytes: int = Field(
        2_000_000_000, ge=500_000_000, description="Most address space of one decoder process."
    )

    # inference
    workers: int | None = Field(
        None, ge=1, le=256, description="Worker threads; default: the cores this process may use."
    )
    queue_max: int = Field(
        32, ge=1, description="Routine and bulk images that may wait for a worker; more are answered 503."
    )
    stat_places: int = Field(
        8,
        ge=0,
        description="Images of the stat lane that find a place beside those, however full it is; they also have a thread of their own "
        "beside the workers, which yield to it. 0: neither.",
    )
    bulk_places: int | None = Field(
        None,
        ge=1,
        description="Most places that images of the bulk lane hold; default: a quarter of workers + queue_max.",
    )
    queue_timeout_s: float = Field(
        10.0,
        gt=0,
        description="An image that waited longer for a worker, or would have to, is answered 503; X-Deadline-Ms can shorten it.",
    )
    engine: str = Field(
        "auto",
        pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$",
        description="Which variant of the bundle's network serves: `auto` measures once and then follows the choice in the database; "
        "`onnxruntime-fp32`, `onnxruntime-int8`, `openvino-fp32`, `openvino-bf16` (where the bundle admits it), `onnxruntime-cuda-fp32` is "
        "that one or nothing.",
    )

    # answers
    overlay_max_px: int = Field(
        1_024, ge=64, description="Longest side of a heat-map overlay unless `size=full` is asked for."
    )

    # records
    audit_wait_s: float = Field(5.0, gt=0, description="Longest wait for the audit event to be durable; then 503.")
    audit_queue_max: int = Field(1_000, ge=1, description="Audit events that may wait for the writer.")
    audit_group_max: int = Field(64, ge=1, description="Most audit events in one commit.")

    # drift
    drift_window_hours: float = Field(
        24.0 * 7, gt=0, description="Window of /drift_report unless `window` is asked for."
    )
    drift_min_predictions: int = Field(
        500, ge=50, description="Fewer predictions than this in the window are insufficient data."
    )

    # gateway
    gateway_config: Path | None = Field(
        None,
        description="TOML file of `cxr gateway`: peers, selection rules, destinations; `cxr gateway --help` explains it.",
    )

    # life cycle
    bundle_poll_s: float = Field(1.0, gt=0, description="How often a process looks for an activation request.")
    drain_s: float = Field(20.0, gt=0, description="After SIGTERM, requests in flight may take this long.")

    @property
    def secrets_path(self) -> Path:
        return self.secrets_dir or self.state_dir / "secrets"

    @property
    def engine_cache(self) -> Path:
        """Folder of networks that OpenVINO compiled."""
        return self.state_dir / "openvino"

    @property
    def database(self) -> str:
        """The effective SQLAlchemy URL, without a password from `database_password_file`."""
        return self.database_url or f"sqlite:///{self.state_dir / 'cxr.sqlite3'}"
