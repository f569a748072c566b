from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from pydicom import config
from pydicom.sr.codedict import codes as dictionary
from pydicom.valuerep import validate_value

from app.results import codes
from tests.support.decisions import unhurried

NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,63}", fullmatch=True)
CONCEPTS = [value for value in vars(codes).values() if isinstance(value, codes.Concept)]


def test_concepts_are_valid_codes() -> None:
    assert len(CONCEPTS) > 10
    for concept in [*CONCEPTS, *codes._FINDINGS.values()]:
        validate_value("SH", concept.value, config.RAISE)
        validate_value("SH", concept.scheme, config.RAISE)
        validate_value("LO", concept.meaning, config.RAISE)


def test_codes_that_pydicom_knows_are_what_it_says() -> None:
    assert dictionary.SCT.Normal.value == codes.finding("normal").value
    assert dictionary.SCT.PleuralEffusion.value == codes.finding("effusion").value
    assert dictionary.SCT.Pneumothorax.value == codes.finding("pneumothorax").value
    assert dictionary.SCT.PulmonaryEdema.value == codes.finding("edema").value
    assert dictionary.SCT.Nodule.value == codes.finding("nodule").value
    assert dictionary.DCM.NoAbnormality.value == codes.finding("no_finding").value
    assert dictionary.DCM.Infiltrate.value == codes.finding("infiltration").value
    assert dictionary.SCT.Positive.value == codes.verdict(True).value
    assert dictionary.SCT.Negative.value == codes.verdict(False).value
    assert dictionary.DCM.Comment.value == codes.COMMENT.value


@unhurried
@given(NAMES)
def test_any_class_has_a_valid_code(name: str) -> None:
    concept = codes.finding(name)
    validate_value("SH", concept.value, config.RAISE)
    validate_value("LO", concept.meaning, config.RAISE)


@unhurried
@given(NAMES, NAMES)
@example("enlarged_cardiomediastinum", "enlarged_cardiomegaly")
def test_two_classes_have_two_private_codes(one: str, other: str) -> None:
    private = {codes._private_value(one), codes._private_value(other)}
    assert len(private) == len({one, other})
