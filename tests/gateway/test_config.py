"""The configuration file: what it takes, what it refuses, and that a refusal names the key and never shows a value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.errors import ConfigurationError
from app.gateway.config import (
    DEFAULT_RULES,
    Dimse,
    GatewayConfig,
    OruDestination,
    Peer,
    Retry,
    Rule,
    Service,
    StoreDestination,
    Stow,
    StowDestination,
    Study,
    WebhookDestination,
    read_secret,
)

SMALLEST = """
[service]
url = "http://service:8000"
key_file = "/run/secrets/key"
[[destination]]
name = "pacs"
kind = "stow"
url = "http://orthanc:8042/dicom-web/studies"
"""
ORU = '[[destination]]\nname = "ris"\nkind = "oru"\nhost = "ris"\nport = 2575\n'
STORE = (
    '[[destination]]\nname = "old"\nkind = "store"\nhost = "pacs"\nport = 104\nae = "PACS"\nobjects = ["sc", "sr"]\n'
)


def load(tmp_path: Path, text: str) -> GatewayConfig:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    return GatewayConfig.load(path)


def test_the_smallest_file_has_sensible_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert config.dimse is None
    assert config.stow is None
    assert config.select == DEFAULT_RULES
    assert config.objects == ("sr",)
    assert config.study.quiet_s == 10.0


def test_the_service_is_asked_for_what_any_destination_takes(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST + ORU + STORE + "[dimse]\n")
    assert config.objects == ("sr", "sc", "oru")
    assert config.dimse is not None
    assert config.dimse.ae_title == "CXRTRIAGE"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        (SMALLEST + "[studdy]\nquiet_s = 1\n", "studdy"),
        (SMALLEST + "[study]\nquiet_s = -1\n", "study.quiet_s"),
        (SMALLEST + "[dimse]\nae_title = 'SEVENTEEN LETTERS'\n", "dimse.ae_title"),
        (SMALLEST + "[dimse]\nae_title = 'BACK\\SLASH'\n", "dimse.ae_title"),
        (SMALLEST + "[dimse]\npeers = [{ ae = ' ' }]\n", "dimse.peers.0.ae"),
        (SMALLEST + STORE, "store needs [dimse]"),
        (SMALLEST + ORU + ORU, "same name"),
        (SMALLEST + ORU.replace("2575", "0"), "destination.1.oru.port"),
        (SMALLEST + ORU + 'objects = ["sr"]\n', "destination.1.oru.objects"),
        (SMALLEST + 'user = "u"\n', "user needs token_file"),
        (SMALLEST + "retry = { first_s = 5, max_s = 1 }\n", "max_s"),
        (SMALLEST + "[[select]]\naction = 'ignore'\nmax_per_study = 1\n", "belong to rules that judge"),
        (SMALLEST + "[[select]]\naction = 'perhaps'\n", "select.0.action"),
        (SMALLEST.replace("http://service", "ftp://service"), "service.url"),
        (SMALLEST.replace("http://service", "http://user:word@service"), "service.url"),
        ("[service]\nurl = 'http://service'\nkey_file = 'k'\n", "destination"),
        ("[service", "not TOML"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, wrong: str, named: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, wrong)
    assert refusal.value.code == "gateway_config"
    assert named in refusal.value.message


def test_a_secret_in_the_wrong_place_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load(tmp_path, SMALLEST + 'password = "hunter2"\n')
    assert "password" in refusal.value.message
    assert "hunter2" not in refusal.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        GatewayConfig.load(tmp_path / "none.toml")


@pytest.mark.parametrize("text", ["", "\n", "two words\n", "two\nlines\n", "umläut\n"])
def test_a_secret_is_one_visible_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as refusal:
        read_secret(path)
    assert refusal.value.code == "gateway_secret"
    path.write_text("good-secret\n")
    assert read_secret(path) == "good-secret"


def leaves(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if name != "kind":
            yield f"{model.__name__}.{name}", field


def test_every_key_has_its_sentence() -> None:
    models: tuple[type[BaseModel], ...] = (Dimse, Peer, Retry, Rule, Service, Stow, Study, GatewayConfig)
    models += (StowDestination, StoreDestination, WebhookDestination, OruDestination)
    assert [
        name for model in models for name, field in leaves(model) if not (field.description or "").endswith(".")
    ] == []
