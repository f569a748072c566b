from __future__ import annotations

import random
import re
import string
import zlib

from hypothesis import given
from hypothesis import strategies as st

from app.records.keytext import KeyText, new_key_text, parse_key_text

EXAMPLE = KeyText("abcdefgh", "A" * 43)


def test_the_form() -> None:
    text = str(new_key_text())
    assert re.fullmatch(r"cxr_[a-z2-7]{8}_[A-Za-z0-9_-]{43}_[0-9A-Za-z]{6}", text)
    assert len(text) == 63


def test_the_checksum_is_crc_32_in_base_62() -> None:
    text = str(EXAMPLE)
    digits = string.digits + string.ascii_uppercase + string.ascii_lowercase
    number = 0
    for digit in text[-6:]:
        number = number * 62 + digits.index(digit)
    assert number == zlib.crc32(b"cxr_abcdefgh_" + b"A" * 43)


def test_keys_come_back_and_differ() -> None:
    keys = [new_key_text() for _ in range(100)]
    assert [parse_key_text(str(key)) for key in keys] == keys
    assert len({key.id for key in keys}) == len({key.secret for key in keys}) == 100


def test_every_single_mistyped_character_is_noticed() -> None:
    chance = random.Random(1)
    text = str(new_key_text())
    for i in range(len(text)):
        other = chance.choice([c for c in string.ascii_letters + string.digits + "_-" if c != text[i]])
        assert parse_key_text(text[:i] + other + text[i + 1 :]) is None


@given(st.text(max_size=80))
def test_other_text_is_not_a_key(text: str) -> None:
    assert parse_key_text(text) is None


def test_the_secret_is_not_in_the_repr() -> None:
    assert EXAMPLE.secret not in repr(EXAMPLE)
