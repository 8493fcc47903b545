"""What counts as evidence of a majority behind a primary, and its date."""

from __future__ import annotations

from math import inf

import pytest

from aikcache._redis.majority import GOSSIP, LATEST, NOTICED, Address, Majority, Opinion, lags

HERE: Address = ("here", 1)
THERE: Address = ("there", 2)


def say(
    majority: Majority,
    number: int,
    at: float,
    *,
    primary: Address = HERE,
    sentinels: int = 3,
    replicas: int = 2,
    reaches: bool | None = None,
    name: str | None = None,
) -> None:
    """Sentinel `number` answers a question sent `at` this time."""
    majority.record_opinion(
        (f"sentinel{number}", 1), Opinion(at, name or f"id{number}", 1, primary, sentinels, replicas, reaches)
    )


def test_a_majority_of_sentinels_is_dated_by_the_answer_that_completed_it() -> None:
    """Two of three are a majority; their evidence is as old as the older of their two latest answers."""
    majority = Majority()
    assert majority.confirmed_at(HERE) == -inf
    say(majority, 0, 10.0)
    assert majority.confirmed_at(HERE) == -inf
    say(majority, 1, 11.0)
    assert majority.confirmed_at(HERE) == 10.0
    say(majority, 0, 12.0)
    assert majority.confirmed_at(HERE) == 11.0
    say(majority, 0, 90.0)
    assert majority.confirmed_at(HERE) == 11.0  # who does not answer is no evidence
    assert majority.confirmed_at(THERE) == -inf
    assert majority.confirmed_at(None) == -inf


def test_a_single_sentinel_is_its_own_majority() -> None:
    """If there is one Sentinel, its answer is enough."""
    majority = Majority()
    say(majority, 0, 10.0, sentinels=1)
    assert majority.confirmed_at(HERE) == 10.0


def test_one_sentinel_under_two_names_counts_once() -> None:
    """A URL may name the same Sentinel twice: it counts once."""
    majority = Majority()
    say(majority, 0, 10.0, name="same")
    say(majority, 1, 11.0, name="same")
    assert majority.confirmed_at(HERE) == -inf


def test_a_sentinel_that_names_another_primary_is_no_evidence() -> None:
    """Three Sentinels, one of which names another primary: each primary counts those that name it."""
    majority = Majority()
    say(majority, 0, 10.0)
    say(majority, 1, 11.0, primary=THERE)
    assert majority.confirmed_at(HERE) == -inf
    say(majority, 2, 12.0, primary=THERE)
    assert (majority.confirmed_at(HERE), majority.confirmed_at(THERE)) == (-inf, 11.0)


def test_evidence_of_ckquorum_is_dated_earlier() -> None:
    """One that reports a quorum is enough, as of the time by which it would have noticed that it has none."""
    majority = Majority()
    say(majority, 0, 10.0, reaches=True)
    assert majority.confirmed_at(HERE) == 10.0 - NOTICED
    say(majority, 0, 20.0, reaches=False)
    say(majority, 0, 21.0, reaches=None)
    assert majority.confirmed_at(HERE) == 10.0 - NOTICED


def test_a_sentinel_that_forgot_the_others_does_not_lower_the_majority() -> None:
    """The number of Sentinels is the largest that any has reported, even if it is silent now."""
    majority = Majority()
    say(majority, 1, 10.0)
    say(majority, 0, 20.0, sentinels=1, reaches=True)
    assert majority.confirmed_at(HERE) == 10.0  # it names this primary, as the other did
    say(majority, 0, 30.0, sentinels=1, reaches=True)
    assert majority.confirmed_at(HERE) == 10.0


@pytest.mark.parametrize(
    ("reporting", "confirmed"),
    [([0, 1], 98.0), ([0], None), ([0, -1], None), ([0, LATEST + 1], None), ([LATEST, 0], 99.0 - LATEST), ([], None)],
)
def test_all_replicas_are_evidence_even_against_sentinels(reporting: list[int], confirmed: float | None) -> None:
    """With every known replica in step none is left that could have taken over, whatever Sentinels see."""
    majority = Majority()
    say(majority, 0, 99.0, reaches=False)
    majority.record_followers(HERE, 100.0, reporting)
    assert majority.confirmed_at(HERE) == (-inf if confirmed is None else confirmed)


def test_most_replicas_are_evidence_unless_a_sentinel_is_cut_off() -> None:
    """A primary with one of two replicas has most of three nodes: enough unless a Sentinel says it is cut off."""
    majority = Majority()
    say(majority, 0, 50.0, reaches=False)
    majority.record_followers(HERE, 50.0 + GOSSIP / 2, [0])
    assert majority.confirmed_at(HERE) == -inf
    say(majority, 0, 51.0, reaches=True)  # again, but has not heard what the others have decided
    majority.record_followers(HERE, 50.5 + GOSSIP / 2, [0])
    assert majority.confirmed_at(HERE) == -inf
    majority.record_followers(HERE, 60.0, [1])  # it has been silent since: all of them are being deployed
    assert majority.confirmed_at(HERE) == 58.0
    majority.record_followers(HERE, 70.0, [])
    assert majority.confirmed_at(HERE) == 58.0


def test_a_primary_without_replicas_needs_none() -> None:
    """Where no replica is known none can take over."""
    majority = Majority()
    majority.record_followers(HERE, 10.0, [])
    assert majority.confirmed_at(HERE) == 10.0


def test_the_date_never_goes_back() -> None:
    """A late answer to an early question removes no evidence."""
    majority = Majority()
    say(majority, 0, 10.0, sentinels=1)
    say(majority, 0, 9.0, sentinels=1)
    assert majority.confirmed_at(HERE) == 10.0


def test_lags_are_read_as_redis_and_valkey_write_them() -> None:
    """For each replica the seconds since its last acknowledgement, and -1 while it is not in step."""
    info = (
        b"# Replication\r\nrole:master\r\nconnected_slaves:3\r\nmin_slaves_good_slaves:0\r\n"
        b"slave0:ip=10.0.0.2,port=6379,state=online,offset=28,lag=8,type=replica\r\n"
        b"slave1:ip=::1,port=6379,state=wait_bgsave,offset=0,lag=0\r\nslave2:ip=b,port=1,state=online,offset=9,lag=1\r\n"
        b"slave_repl_offset:28\r\n"
    )
    assert lags(info) == [8, -1, 1]
    assert lags(b"# Replication\r\nrole:master\r\nconnected_slaves:0\r\n") == []


def test_a_sentinel_that_was_cut_off_is_evidence_again_after_a_while() -> None:
    """It reaches them again before it learns that they have another primary."""
    majority = Majority()
    say(majority, 0, 10.0, reaches=False)
    say(majority, 0, 11.0, reaches=True)
    say(majority, 0, 10.0 + GOSSIP, reaches=True)
    assert majority.confirmed_at(HERE) == -inf
    say(majority, 0, 10.5 + GOSSIP, reaches=True)
    assert majority.confirmed_at(HERE) == 10.5 + GOSSIP - NOTICED
