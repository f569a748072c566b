"""The gateway's configuration: one TOML file, every key typed, an unknown key an error. Secrets stand in files of their own.

[dimse]
ae_title = "CXRTRIAGE"
port = 11112
peers = [{ ae = "ORTHANC", address = "10.0.0.5" }]

[service]
url = "http://service:8000"
key_file = "/run/secrets/service_key"

[[select]]
action = "judge"
modality = ["CR", "DX"]
max_per_series = 1

[[destination]]
name = "pacs"
kind = "stow"
url = "http://orthanc:8042/dicom-web/studies"
objects = ["sr", "sc"]
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from app.errors import ConfigurationError

ObjectKind = Literal["sr", "sc", "gsps", "pdf_dicom", "pdf", "fhir", "oru"]
"""Kinds of result objects that the service makes (`POST /reports?objects=...`)."""
DicomObject = Literal["sr", "sc", "gsps", "pdf_dicom"]
OBJECT_KINDS: tuple[ObjectKind, ...] = get_args(ObjectKind)

# PS3.5 section 6.2, AE: 1 to 16 characters, no backslash, no control characters; spaces at the ends do not count
AeTitle = Annotated[str, Field(pattern=r"^[!-\[\]-~]([ -\[\]-~]{0,14}[!-\[\]-~])?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
HttpUrl = Annotated[str, Field(pattern=r"^https?://[^\s/?#@]+(/[^\s?#]*)?$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Retry(_Section):
    """Waiting time before try n + 1: `first_s * factor**(n - 1)`, at most `max_s`, of which a random half is waited less."""

    first_s: float = Field(2.0, gt=0, le=3_600, description="Wait after the first failure.")
    factor: float = Field(2.0, ge=1, le=10, description="Each wait is so many times the one before.")
    max_s: float = Field(600.0, gt=0, le=86_400, description="Longest wait.")
    attempts: int = Field(
        20,
        ge=1,
        le=10_000,
        description="Tries after which a message is a dead letter; a target that cannot be reached is waited for.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_s < self.first_s:
            raise ValueError("max_s must not be less than first_s")
        return self


class Peer(_Section):
    """An application entity that may send."""

    ae: AeTitle = Field(description="Calling AE title.")
    address: str | None = Field(None, description="IP address it must call from; any where absent.")


class Dimse(_Section):
    """The DICOM side: what this application entity is called, where it listens, who may send."""

    ae_title: AeTitle = Field("CXRTRIAGE", description="Our AE title: called by senders, calling at C-STORE targets.")
    host: str = Field("0.0.0.0", description="Address to listen on.")  # noqa: S104 - guarded by the list of peers
    port: int = Field(11112, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    peers: tuple[Peer, ...] = Field((), description="Who may send; nobody where empty.")
    max_associations: int = Field(10, ge=1, le=200, description="Associations at one time; more are rejected.")
    timeout_s: float = Field(30.0, gt=0, le=3_600, description="Longest silence of a peer inside an association.")


class Stow(_Section):
    """STOW-RS in; absent section: no HTTP port is opened."""

    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8081, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    token_file: Path = Field(description="File with the bearer token that senders and scrapers must show.")


class Service(_Section):
    """The triage service that judges."""

    url: HttpUrl = Field(description="Base URL of the service.")
    key_file: Path = Field(description="File with an API key of the role `service`.")
    operating_point: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")] | None = Field(
        None, description="Operating point to judge at; the bundle's default where absent."
    )
    concurrency: int = Field(2, ge=1, le=32, description="Films judged at one time.")
    timeout_s: float = Field(60.0, gt=0, le=3_600, description="Longest wait for a judgement.")
    retry: Retry = Field(
        Retry(first_s=1.0, max_s=60.0, attempts=12),
        description="After a failure; `attempts` counts only internal errors of the service, an absence is waited out.",
    )


class Study(_Section):
    """When a study counts as complete, and how long anything may stay."""

    quiet_s: float = Field(10.0, ge=0, le=86_400, description="A study without new films for so long is selected from.")
    ttl_hours: float = Field(72.0, gt=0, le=24 * 365, description="Sealed films and results are deleted after this.")
    history_days: float = Field(90.0, gt=0, le=36_500, description="Rows of what is done are deleted after this.")
    spool_max_bytes: int = Field(20_000_000_000, ge=1_000_000, description="Fuller than this, no film is taken.")


class Rule(_Section):
    """One selection rule. It matches where every key that is given does; "" in a list stands for a silent header."""

    action: Literal["judge", "ignore"] = Field(description="What is done with a film that matches.")
    modality: tuple[str, ...] | None = Field(None, description="Modality, any of these.")
    body_part: tuple[str, ...] | None = Field(None, description="Body part examined, any of these.")
    view: tuple[str, ...] | None = Field(None, description="View (AP, PA, LL, RL, LATERAL, other), any of these.")
    derived: bool | None = Field(None, description="Whether Image Type says DERIVED.")
    image_type: tuple[str, ...] | None = Field(None, description="Values of Image Type, all of which must be there.")
    sop_class: tuple[str, ...] | None = Field(None, description="SOP class UID, any of these.")
    peer: tuple[str, ...] | None = Field(None, description="Calling AE title (STOW-RS: `STOW`), any of these.")
    max_per_series: int | None = Field(None, ge=1, description="At most so many films of a series by this rule.")
    max_per_study: int | None = Field(None, ge=1, description="At most so many films of a study by this rule.")

    @model_validator(mode="after")
    def _limits_only_where_judged(self) -> Self:
        if self.action == "ignore" and (self.max_per_series or self.max_per_study):
            raise ValueError("max_per_series and max_per_study belong to rules that judge")
        return self


DEFAULT_RULES = (Rule(action="judge", modality=("CR", "DX"), derived=False),)
"""Without any `[[select]]`: radiographs that are no derived images. What no rule matches is ignored."""


class _Destination(_Section):
    name: Name = Field(description="Short name: in status, logs and metrics.")
    timeout_s: float = Field(30.0, gt=0, le=3_600, description="Longest silence of the target.")
    retry: Retry = Field(Retry(), description="Waits and tries after a failure.")


class StowDestination(_Destination):
    """A DICOMweb archive."""

    kind: Literal["stow"]
    url: HttpUrl = Field(description="The STOW-RS resource, `.../studies`.")
    objects: tuple[DicomObject, ...] = Field(("sr",), min_length=1, description="What is sent.")
    token_file: Path | None = Field(None, description="File with a bearer token; with `user`, with the password.")
    user: str | None = Field(None, min_length=1, description="User name for HTTP Basic authentication.")

    @model_validator(mode="after")
    def _password(self) -> Self:
        if self.user is not None and self.token_file is None:
            raise ValueError("user needs token_file, which holds the password")
        return self


class StoreDestination(_Destination):
    """A DICOM archive that takes C-STORE."""

    kind: Literal["store"]
    host: str = Field(min_length=1, description="Name or address.")
    port: Port = Field(description="Port it listens on.")
    ae: AeTitle = Field(description="Called AE title.")
    objects: tuple[DicomObject, ...] = Field(("sr",), min_length=1, description="What is sent.")


class WebhookDestination(_Destination):
    """An HTTP endpoint that takes FHIR resources in signed messages (standardwebhooks.com)."""

    kind: Literal["webhook"]
    url: HttpUrl = Field(description="Where messages are posted to.")
    secret_file: Path = Field(description="File with the signing secret, `whsec_` and base64 of 24 to 64 bytes.")
    objects: tuple[Literal["fhir"], ...] = Field(("fhir",), min_length=1, description="What is sent.")


class OruDestination(_Destination):
    """An HL7 v2 listener (MLLP)."""

    kind: Literal["oru"]
    host: str = Field(min_length=1, description="Name or address.")
    port: Port = Field(description="Port it listens on.")
    objects: tuple[Literal["oru"], ...] = Field(("oru",), min_length=1, description="What is sent.")


Destination = Annotated[
    StowDestination | StoreDestination | WebhookDestination | OruDestination, Field(discriminator="kind")
]


class GatewayConfig(_Section):
    """The whole file."""

    dimse: Dimse | None = Field(None, description="Absent: no DICOM port is opened.")
    stow: Stow | None = Field(None, description="Absent: no HTTP port is opened.")
    service: Service = Field(description="Who judges.")
    study: Study = Field(Study(), description="How long is waited for, and how long anything is kept.")
    select: tuple[Rule, ...] = Field(DEFAULT_RULES, description="Rules; the first that matches decides.")
    destination: tuple[Destination, ...] = Field(min_length=1, description="Who gets what; names must differ.")

    @field_validator("destination")
    @classmethod
    def _names_differ(cls, destinations: tuple[Any, ...]) -> tuple[Any, ...]:
        if len({d.name for d in destinations}) < len(destinations):
            raise ValueError("two destinations have the same name")
        return destinations

    @model_validator(mode="after")
    def _store_needs_a_name(self) -> Self:
        if self.dimse is None and any(d.kind == "store" for d in self.destination):
            raise ValueError("a destination of kind store needs [dimse] for our own AE title")
        return self

    @property
    def objects(self) -> tuple[ObjectKind, ...]:
        """What the service is asked for: everything that any destination takes, in a fixed order."""
        wanted = {kind for destination in self.destination for kind in destination.objects}
        return tuple(kind for kind in OBJECT_KINDS if kind in wanted)

    @classmethod
    def load(cls, path: Path) -> GatewayConfig:
        """Read and check a file.

        Raises:
            ConfigurationError: gateway_config; the message names each wrong key, never a value.
        """
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise ConfigurationError("gateway_config", f"{path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
            raise ConfigurationError("gateway_config", f"{path}: {wrong}") from None
        except ValueError as error:  # TOML syntax, or not UTF-8
            raise ConfigurationError("gateway_config", f"{path} is not TOML: {error}") from None


def read_secret(path: Path) -> str:
    """A secret from its file, without the newline at its end.

    Raises:
        ConfigurationError: gateway_secret; the file is away, empty or not one line of visible ASCII.
    """
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise ConfigurationError("gateway_secret", f"{path} cannot be read as a line of text") from None
    if not text or not text.isprintable() or " " in text:
        raise ConfigurationError("gateway_secret", f"{path} must hold one line of visible characters")
    return text
