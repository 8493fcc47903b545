"""What sessions and key rings did, as exported numbers."""

from __future__ import annotations

from dataclasses import dataclass, field

from aikcache._engine import reading
from aikcache._engine.reading import Reading
from aikcache._engine.session_tally import EVENTS, SessionTally
from aikcache._engine.tally import Tally


@dataclass(eq=False)
class FakeRing:
    """A ring of these keys; without any it has not been read."""

    states: dict[str, str] = field(default_factory=dict)
    due: float | None = None

    def key_states(self) -> dict[str, str]:
        return self.states

    def next_rotation(self) -> float | None:
        return self.due


def test_a_ring_that_is_open_twice_counts_once_and_one_that_is_gone_not_at_all() -> None:
    """Keys are told apart by their ids; the soonest rotation of all rings counts."""
    tally = SessionTally()
    unread, one, again = FakeRing(), FakeRing({"a": "active", "b": "expired"}, 9.0), FakeRing({"a": "active"}, -5.0)
    assert (tally.keys(), tally.next_rotation(), tally.events()) == ({}, [], {})
    for ring in (unread, one, again):
        tally.add_ring(ring)
    assert tally.keys() == {"pending": 0, "active": 1, "expired": 1, "retired": 0, "revoked": 0}
    assert tally.next_rotation() == [-5.0]
    del ring, again
    assert tally.next_rotation() == [9.0]


def test_all_events_are_there_from_the_first_store_on() -> None:
    """A counter that appears at 1 has no increase."""
    tally = SessionTally()
    tally.join()["created"] += 1
    tally.join()["created"] += 1
    assert tally.events() == {**dict.fromkeys(EVENTS, 0), "created": 2}


def test_processes_that_share_a_ring_are_not_added_up() -> None:
    """An overdue rotation is a negative number in a snapshot; a negative counter is none of ours."""
    tally = Tally()
    ring = FakeRing({"a": "active", "b": "expired"}, -60.0)
    tally.sessions.add_ring(ring)
    tally.sessions.join()["created"] += 3
    mine = reading.unpack(reading.pack(reading.take(tally)))
    other = Reading({"keyring_keys": {("active",): 1.0}, "session": {("created",): 1.0}})
    total = reading.merged([mine, other]).samples
    assert (total["keyring_keys"]["active",], total["keyring_keys"]["expired",]) == (1, 1)
    assert total["keyring_next_rotation_seconds"] == {(): -60.0}
    assert total["session"]["created",] == 4
    assert reading.unpack({"samples": {"session": [["created", -1]]}}).samples["session"] == {}
