from __future__ import annotations

import threading

from app.records import Records
from app.settings import Settings
from tests.records.conftest import OpenRecords
from tests.records.samples import DIGEST, REF, Ref


def test_requests_and_outcomes_of_two_processes(settings: Settings, open_records: OpenRecords) -> None:
    one, two = open_records(settings), open_records(settings)
    assert one.history.live() is None
    assert one.history.position() == 0
    seed = one.history.write_outcome("activated", REF, DIGEST, who="start", request=None)
    live = one.history.live()
    assert live is not None
    assert (live.position, live.event, live.request, live.name, live.version) == (
        seed,
        "activated",
        None,
        "pneumonia",
        "1.0.0",
    )
    assert live.process == one.chain_id

    request = two.history.request_activation(Ref("pneumonia", "1.1.0"), "e" * 64, "radiology admin")
    assert request == 2
    assert [r.position for r in one.history.pending()] == [r.position for r in two.history.pending()] == [request]
    assert one.history.pending(since=request) == ()
    one.history.write_outcome("activated", Ref("pneumonia", "1.1.0"), "e" * 64, who="radiology admin", request=request)
    assert one.history.pending() == ()
    assert [r.version for r in two.history.pending()] == ["1.1.0"]
    two.history.write_outcome(
        "failed", Ref("pneumonia", "1.1.0"), "e" * 64, who="radiology admin", request=request, reason="changed_file"
    )
    assert two.history.pending() == ()
    assert {r.process: (r.event, r.reason) for r in one.history.outcomes(request)} == {
        one.chain_id: ("activated", None),
        two.chain_id: ("failed", "changed_file"),
    }
    live = two.history.live()
    assert live is not None
    assert live.version == "1.1.0"
    assert [r.position for r in one.history.list()] == [4, 3, 2, 1]
    assert [r.position for r in one.history.list(limit=2)] == [4, 3]
    assert one.verify().problems == []


def test_positions_of_many_processes_are_one_sequence(settings: Settings, open_records: OpenRecords) -> None:
    processes = [open_records(settings) for _ in range(4)]

    def ask(records: Records) -> None:
        for _ in range(5):
            records.history.request_activation(REF, DIGEST, "x")

    threads = [threading.Thread(target=ask, args=(records,)) for records in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row.position for row in reversed(processes[0].history.list())] == list(range(1, 21))
    assert all(records.healthy for records in processes)
