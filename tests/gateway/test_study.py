"""Films on arrival, and studies that become quiet; the clock is the test's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import select, update

from app.errors import ImageError, UnavailableError
from app.gateway.config import GatewayConfig
from app.gateway.store import Store
from app.gateway.study import Studies
from app.gateway.tables import contents, films
from app.settings import Settings
from tests.support.dicom_films import dicom_film

CONFIG: dict[str, Any] = {
    "service": {"url": "http://service", "key_file": "key"},
    "study": {"quiet_s": 10},
    "select": [{"action": "judge", "modality": ["CR"], "max_per_series": 1}],
    "destination": [{"name": "a", "kind": "oru", "host": "h", "port": 1}],
}
STUDY = "1.2.3.4"


@dataclass
class Clock:
    at: float = 1_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Place:
    store: Store
    studies: Studies
    clock: Clock

    def states(self) -> dict[str, int]:
        with self.store.read() as connection:
            states = connection.execute(select(films.c.state).order_by(films.c.id)).scalars().all()
        return {state: states.count(state) for state in states}

    def kept(self) -> int:
        with self.store.read() as connection:
            return len(connection.execute(select(contents.c.id)).all())


@pytest.fixture
def place(settings: Settings) -> Iterator[Place]:
    store, clock = Store(settings), Clock()
    yield Place(store, Studies(store, GatewayConfig.model_validate(CONFIG), 1_000_000, clock), clock)
    store.close()


def film(seed: int, **attributes: Any) -> bytes:
    return dicom_film(seed, size=(64, 64), StudyInstanceUID=STUDY, **attributes)


def test_the_same_bytes_are_taken_once_and_other_bytes_again(place: Place) -> None:
    assert place.studies.take(film(1), "A").new
    assert not place.studies.take(film(1), "A").new
    assert place.studies.take(film(1, StudyDescription="CORRECTED"), "A").new
    assert (place.states(), place.kept()) == ({"received": 2}, 2)


def test_what_no_rule_wants_is_acknowledged_and_not_kept(place: Place) -> None:
    received = place.studies.take(film(1, Modality="CT"), "A")
    assert (received.new, received.ignored) == (True, True)
    assert (place.states(), place.kept()) == ({"ignored": 1}, 0)


def test_a_study_is_selected_from_when_it_has_been_quiet(place: Place) -> None:
    place.studies.take(film(1), "A")
    place.clock.at += 6
    place.studies.take(film(2), "A")
    place.clock.at += 6
    selected, wait_s = place.studies.select_quiet()
    assert (selected, wait_s) == (0, 4.0)
    place.clock.at += 4
    assert place.studies.select_quiet()[0] == 2
    assert place.states() == {"selected": 2}


def test_other_studies_do_not_wait_for_it(place: Place) -> None:
    place.studies.take(dicom_film(5, size=(64, 64)), "A")
    place.clock.at += 9
    place.studies.take(film(1), "A")
    place.clock.at += 1
    assert place.studies.select_quiet()[0] == 1


def test_a_limit_counts_late_films_too_and_drops_what_is_not_taken(place: Place) -> None:
    place.studies.take(film(1, SeriesInstanceUID="1.7", InstanceNumber=2), "A")
    place.studies.take(film(2, SeriesInstanceUID="1.7", InstanceNumber=1), "A")
    place.clock.at += 10
    assert place.studies.select_quiet()[0] == 1
    assert (place.states(), place.kept()) == ({"ignored": 1, "selected": 1}, 1)
    place.studies.take(film(3, SeriesInstanceUID="1.7", InstanceNumber=0), "A")
    place.clock.at += 10
    assert place.studies.select_quiet()[0] == 0
    assert (place.states(), place.kept()) == ({"ignored": 2, "selected": 1}, 1)


def test_a_film_sent_again_after_its_judgement_is_looked_at_again(place: Place) -> None:
    place.studies.take(film(1), "A")
    with place.store.write() as connection:
        connection.execute(update(films).values(state="judged"))
    assert place.studies.take(film(1), "A").new
    assert (place.states(), place.kept()) == ({"received": 1}, 1)


def test_a_clock_that_was_put_back_holds_nothing_up(place: Place) -> None:
    place.studies.take(film(1), "A")
    place.clock.at -= 500
    assert place.studies.select_quiet()[0] == 1


def test_facts_that_do_not_open_fail_that_film_alone(place: Place) -> None:
    place.studies.take(film(1), "A")
    place.studies.take(film(2, SeriesInstanceUID="1.8"), "A")
    with place.store.write() as connection:
        connection.execute(update(films).where(films.c.id == 1).values(facts=b"damaged"))
    place.clock.at += 10
    assert place.studies.select_quiet()[0] == 1
    assert place.states() == {"failed": 1, "selected": 1}


def test_a_full_spool_takes_no_film(settings: Settings) -> None:
    config = GatewayConfig.model_validate(CONFIG | {"study": {"spool_max_bytes": 1_000_000}})
    store = Store(settings)
    studies = Studies(store, config, 10_000_000, Clock())
    for seed in (1, 2, 3):  # 240 kB each
        studies.take(dicom_film(seed, size=(400, 300)), "A")
    with pytest.raises(UnavailableError):
        studies.take(dicom_film(4, size=(400, 300)), "A")
    store.close()


def test_a_film_that_is_too_large_is_refused(settings: Settings) -> None:
    store = Store(settings)
    studies = Studies(store, GatewayConfig.model_validate(CONFIG), 5_000, Clock())
    with pytest.raises(ImageError) as refusal:
        studies.take(film(1), "A")
    assert refusal.value.code == "payload_too_large"
    store.close()
