"""Replies of a cluster's nodes are untrusted: each gives a possible view or an error, at a bounded cost."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aikcache._redis.cluster.topology import SLOTS, Topology, own_slots, redirection, topology
from aikcache.errors import RemoteUnavailableError

ASKED = ("here", 7000)
INFO = (
    b"cluster_state:ok\r\ncluster_current_epoch:5\r\ncluster_my_epoch:5\r\ncluster_size:1\r\ncluster_known_nodes:1\r\n"
)


def shards(slots: Any = (0, 100), **node: Any) -> list[Any]:
    said = {b"endpoint": b"h1", b"port": 7001, b"role": b"master", b"health": b"online"}
    said |= {name.replace("_", "-").encode(): value for name, value in node.items()}
    return [{b"slots": list(slots), b"nodes": [said]}]


def view(said: object) -> Topology:
    return topology(INFO, said, ASKED, tls=False)


def test_a_view_is_read() -> None:
    """Owners by slot; a missing host is that of the node that was asked."""
    assert view(shards()).owners == dict.fromkeys(range(101), ("h1", 7001))
    assert view(shards(endpoint=b"?", port=0)).primaries == {ASKED}
    assert view(shards(endpoint=b"[::1]")).primaries == {("::1", 7001)}


@pytest.mark.parametrize(
    "said",
    [
        shards(endpoint=b"evil/x"),
        shards(endpoint=b"user:password@evil"),
        shards(endpoint=b"a b"),
        shards(endpoint=b"\x1b[31m"),
        shards(endpoint=b"x" * 300),
        shards(endpoint=[b"h1"]),
        shards(port=99999),
        shards(port=-1),
        shards(port=b"7001x"),
        shards(port=[7001]),
        shards((0, 40_000_000)),
        shards((-1, 5)),
        shards((5, SLOTS)),
        shards((0,)),
        shards((0, SLOTS - 1) * 1000),
        shards((0, SLOTS - 1)) * 1000,
        shards((b"a", b"b")),
        [5],
        [[1]],
        [{b"nodes": [5]}],
        [{b"nodes": 5}],
        [{b"slots": 5}],
        [{b"nodes": [{b"endpoint": b"h%d" % n, b"role": b"master"} for n in range(5000)]}],
        {},
        None,
        b"OK",
    ],
)
def test_a_view_that_cannot_be_is_refused(said: object) -> None:
    """Malformed addresses, ports and slots are a `RemoteUnavailableError`, which does not quote them."""
    with pytest.raises(RemoteUnavailableError) as caught:
        view(said)
    assert "evil" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


anything = st.recursive(
    st.none() | st.integers() | st.binary(max_size=8) | st.text(max_size=8) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(anything | st.builds(shards, st.lists(st.integers(), max_size=4), endpoint=anything, port=anything))
def test_any_reply_of_a_node_is_a_view_or_an_error(said: Any) -> None:
    """No other exception is raised, and every address and slot of a view is valid."""
    try:
        found = view(said)
    except RemoteUnavailableError:
        return
    assert all(0 <= slot < SLOTS for slot in found.owners)
    assert all(0 < port < 65536 and "/" not in host for host, port in found.nodes)


@pytest.mark.parametrize(
    "text",
    ["MOVED 12 evil/x:7001", "MOVED 12 h:99999", "MOVED x h:7001", "MOVED 99999 h:7001", "ASK", "MOVED", "MOVED 1 h:"],
)
def test_a_redirection_to_nowhere_is_none(text: str) -> None:
    """It is an error reply like any other."""
    assert redirection(text, ASKED) is None


@given(st.text(max_size=40) | st.text(max_size=40).map("MOVED 12 {}".format))
def test_any_text_is_a_redirection_or_none(text: str) -> None:
    """Nothing is raised, and no command goes to an invalid address."""
    found = redirection(text, ASKED)
    assert found is None or (0 <= found.slot < SLOTS and 0 < found.address[1] < 65536)


def taken_over(first: str, second: str, slots: Any = (0, 100)) -> list[Any]:
    """A shard as Valkey 9.1 lists it while the node that was replaced is not known to be dead yet."""
    nodes = [
        [b"id", name.encode(), b"port", 7001, b"endpoint", name.encode(), b"role", b"master", b"health", b"online"]
        for name in (first, second)
    ]
    return [[b"slots", list(slots), b"nodes", nodes, b"id", b"shard"], *shards((101, 200), endpoint=b"h3", id=b"h3")]


NODES = (
    b"h3 h3:7001@17001 master - 0 0 2 connected 101-200\n"
    b"old h1:7001@17001 master - 1795763105589 1795763101508 7 connected\n"
    b"new h2:7001@17001 myself,master - 0 0 8 connected 0-98 99 100 [12->-h3]\n"
)


@pytest.mark.parametrize("slots", [(0, 100), ()], ids=["those of the new one", "those of the old one"])
@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")], ids=" ".join)
def test_the_owner_of_a_shard_with_two_masters_is_whom_the_nodes_name(order: tuple[str, str], slots: Any) -> None:
    """Whatever their order, and whoever's slots the shard is listed with; both are listened to."""
    said = taken_over(*order, slots=slots)
    assert view(said).is_disputed
    found = topology(INFO, said, ASKED, tls=False, nodes=NODES)
    owners = dict.fromkeys(range(101), ("new", 7001)) | dict.fromkeys(range(101, 201), ("h3", 7001))
    assert found.owners == owners
    assert not found.is_disputed
    assert found.primaries == {("old", 7001), ("new", 7001), ("h3", 7001)}


def test_a_shard_with_one_living_master_is_not_disputed() -> None:
    """Nobody is asked twice when the one that was replaced has failed, or is a replica."""
    said = taken_over("old", "new")
    said[0][3][0][9] = b"fail"
    assert not view(said).is_disputed
    assert view(said).owners[0] == ("new", 7001)


@pytest.mark.parametrize("nodes", [RuntimeError("NOPERM"), b"", b"OK", NODES.replace(b"new", b"who")])
def test_where_the_nodes_name_no_owner_the_last_master_is_used(nodes: object) -> None:
    """As for a user who may not ask."""
    assert topology(INFO, taken_over("old", "new"), ASKED, tls=False, nodes=nodes).owners[0] == ("new", 7001)


@pytest.mark.parametrize("slots", ["x", "-1", "5-16384", "0-" + "9" * 5000, "0-16383 0", "0-99999999999999999999"])
def test_nodes_with_what_is_no_slot_are_refused(slots: str) -> None:
    """The error shows nothing of it."""
    with pytest.raises(RemoteUnavailableError, match=r"CLUSTER NODES cannot be\.$"):
        topology(INFO, shards(), ASKED, tls=False, nodes=f"evil h:1@2 master - 0 0 1 connected {slots}".encode())


def test_masters_that_share_a_name_do_not_multiply_its_slots() -> None:
    """The slots that the nodes name for it are given once for each master: thousands of times, in a forged reply."""
    said = taken_over("old", "new")
    said[0][3] = [[*said[0][3][1], b"tls-port", 7000 + n] for n in range(1000)]
    nodes = b"new h2:7001@17001 myself,master - 0 0 8 connected 0-16383\n"
    with pytest.raises(RemoteUnavailableError):
        topology(INFO, said, ASKED, tls=True, nodes=nodes)


@given(anything | st.binary(max_size=40).map(NODES.replace(b"\n", b" ").__add__))
def test_any_text_about_nodes_is_a_view_or_an_error(nodes: Any) -> None:
    """Nothing else is raised, and every slot is one."""
    try:
        found = topology(INFO, taken_over("old", "new"), ASKED, tls=False, nodes=nodes)
    except RemoteUnavailableError:
        return
    assert all(0 <= slot < SLOTS for slot in found.owners)


def test_a_node_says_what_it_owns() -> None:
    """Its epoch and ranges, the number of slots in them, and moving slots without their number."""
    line = b"id h:7001@17001,h myself,master - 0 0 7 connected 0-9 12 [13->-other]\n"
    other = b"id2 h:7002@17002 master - 0 0 8 connected 20-30\n"
    assert own_slots(other + line) == ("7 0-9 12 [13->-other]", 11)
    assert own_slots(b"id h:7001@1 myself,master - 0 0 7 connected\n") == ("7", 0)


@pytest.mark.parametrize("said", [b"", b"myself", b"a b myself d e f g h x-y", None, 5, "ERR unknown"])
def test_a_node_that_says_nothing_of_itself_is_refused(said: object) -> None:
    """Any other reply is a `RemoteUnavailableError`."""
    with pytest.raises(RemoteUnavailableError):
        own_slots(said)
