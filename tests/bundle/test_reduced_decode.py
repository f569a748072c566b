"""One decode serves the classifier and the gate: what a manifest may say about it."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest
from pydantic import ValidationError

from app.bundle.manifest import Manifest
from tests.support.tiny_bundle import tiny_parts


def manifest(*, classifier: Mapping[str, Any], gate: Mapping[str, Any]) -> Manifest:
    """A tiny bundle's, with changed inputs of its two networks."""
    fields: dict[str, Any] = deepcopy(dict(tiny_parts(gate={}).manifest))
    fields.setdefault("files", {})
    fields["input"] |= classifier
    fields["gate"]["picture"]["input"] |= gate
    return Manifest.model_validate(fields)


def test_the_classifiers_input_decides() -> None:
    assert manifest(classifier={"reduced_decode": True}, gate={}).input.reduced_decode
    assert not manifest(classifier={}, gate={"size": 128}).input.reduced_decode
    with pytest.raises(ValidationError, match="a matter of the classifier's input"):
        manifest(classifier={"reduced_decode": True}, gate={"reduced_decode": True})


def test_the_gate_must_not_be_larger_than_the_classifier() -> None:
    with pytest.raises(ValidationError, match="leaves too little for the gate's network of 65 px"):
        manifest(classifier={"reduced_decode": True}, gate={"size": 65})
