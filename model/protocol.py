"""An exhaustive model of how this cache stays coherent: every interleaving of a few calls, small and complete.

Two processes share a Redis and a database with one record. Readers make cached calls. Writers commit a new version and
then invalidate: by group or tag (a new stamp), by key (value and lease unlinked, a marker), by glob (a sweep between
two markers), or by `set`. A step is one server command or one local step under a lock. Writes of one cycle of the
server's loop are pushed together, each name once, at its end; only then are that cycle's replies sent. Pushes and the
replies to the channel's own questions arrive in one order, and are handled whenever the channel's thread runs.

Guarantees, checked at every return and at rest:
    own      a call that began after an invalidation returned, in the same process, sees that version
    pushed   a call in another process that began after that invalidation's push was handled sees that version
    strong   a strong call sees every invalidation that returned anywhere before it began: nothing from memory counts
    cut      while the channel is cut, a call not answered locally sees every invalidation that reached Redis before it
    rest     when all is quiet nothing older is held, acceptable or cached anywhere
    kept     a process's own write has not dropped what it held: a write costs one load, not two
    soon     no call waits for a load that was invalidated
    put      a value put by hand does not outlive an invalidation that came after it began
    refused  a call that began `max_staleness` after an invalidation returned anywhere sees it, also if it was refused

Not modelled, and shown on real servers instead: flights; failover but for one (the node of a cluster that has the stamp
of any tag is replaced by one that lacks the last change); a server that is unavailable; and time but for one moment. (A
process that did not receive a refused invalidation, because it started later or its channel was cut, may read from a
server that accepts writes again before anybody has sent it: that is pending, as after a server was unavailable.) A push
that is ignored as the process's own counts as handled when the local part of its invalidation, if still to come, is
done.

    python model/protocol.py            as designed (must hold)
    python model/protocol.py --broken   each rule removed in turn (each must be caught; the scenario is printed)
    --small: only the quick scenarios. --trace: the steps that led to a broken guarantee.
"""

from __future__ import annotations

import sys
from typing import NamedTuple

import _trust
from _steps import Agent, Broken, Proc, Rules, State, Value, steps

RULES = {  # by name, with their meaning
    "lease_checked": "store only under one's own lease",
    "takeover": "a lease taken under an older stamp is taken over",
    "stamp_before_load": "the frame's digest is of the stamps known before the load began",
    "stamp_checked": "a frame with another stamp is a miss",
    "local_guard": "fill locally only if nothing relevant was pushed or invalidated since the call began",
    "stamp_guard": "a stamp that was read is cached only if no push arrived since it was requested",
    "forget_own_stamp": "after invalidating, the stamp is unknown, not the one just written",
    "push_drops_local": "a push empties the local entries it concerns",
    "own_drops_local": "the invalidator empties its own local entries after the remote write",
    "cut_distrusts": "while the channel is cut, stamps are read with every value and not cached",
    "reconnect_empties": "on reconnecting (subscribed first), local entries and stamps are dropped",
    "maker_drops_local": "a process that creates a missing stamp drops its own local entries of that group",
    "echo_known": "a push about a stamp written here does not invalidate what is here",
    "echo_verified": "but only if the stamp, read after the push, is one written here",
    "echo_written": "a stamp that was merely read does not count: its push may still come",
    "marker_names_writer": "a key's marker has its writer's name, so two writers' markers are never one push",
    "resent_with_new_stamp": "an invalidation whose reply was lost is sent again with another stamp",
    "any_tag_first": "the stamp of any tag is written before the tag's own",
    "any_tag_last": "and read after it, when the result has named its tags",
    "tags_again": "if a takeover lost the stamp of any tag, the tags' own stamps on other nodes are renewed with it",
    "set_takes_lease": "a value put by hand takes the lease from a running load",
    "set_under_lease": "and is stored only while it has the lease",
    "strong_asks": "a strong read reads every stamp, whatever is cached",
    "strong_not_local": "and is not answered by what is held here",
    "leases_first": "a sweep removes all leases before it begins with the values",
    "probe_required": "a heartbeat counts only if a write that changes nothing was accepted with it",
    "read_carries_probe": "a read that no heartbeat covers carries that write itself",
    "received_is_held_back": "a refused invalidation is published; receivers apply it, and send it before they read",
}


class Scenario(NamedTuple):
    agents: tuple[Agent, ...]
    value: Value | None = None
    local: tuple[int | None, int | None] = (None, None)
    cached: tuple[int | None, int | None] = (None, None)
    stamp: int | None = 0
    kept: tuple[int, ...] = ()  # processes that must hold the value at the end
    small: bool = False
    later: tuple[int, ...] = ()  # processes that start later, and whose channel is not up
    mute: bool = False  # nothing can be published

    def first(self) -> State:
        procs = tuple(Proc(local=held, cached=cached) for held, cached in zip(self.local, self.cached, strict=True))
        later = Proc(live=False, trusts=False, covered=False, dead=True)
        procs = tuple(later if n in self.later else proc for n, proc in enumerate(procs))
        return State(1, self.value, None, self.stamp, 1, (), procs, self.agents, mute=self.mute)


def at_rest(s: State, kept: tuple[int, ...]) -> None:
    if any(a.pc != "done" and not s.procs[a.proc].dead for a in s.agents) or s.cycle:
        return
    if any(p.queue or p.questions or p.pending for p in s.procs):
        return
    for n, p in enumerate(s.procs):
        if _trust.begun(s):  # it no longer listens
            break
        if p.local is not None and p.local < s.db:
            raise Broken(f"at rest {n} holds version {p.local} locally; the database has {s.db}")
        if p.cached is not None and p.cached != s.stamp:
            raise Broken(f"at rest {n} caches a stamp that was replaced")
        if n in kept and p.local is None:
            raise Broken(f"at rest {n} holds nothing, although no other process has invalidated anything")
    if s.value is not None and None is not s.stamp == s.value.stamp and s.value.version < s.db:
        raise Broken(f"at rest Redis holds version {s.value.version}, fresh; the database has {s.db}")


def explore(scenario: Scenario, rules: Rules, *, trace: bool = False) -> tuple[int, str | None]:
    """The number of states, and how a guarantee was broken, if one was."""
    first = scenario.first()
    seen: dict[State, tuple[State, str] | None] = {first: None}
    todo = [first]
    while todo:
        s = todo.pop()
        try:
            at_rest(s, scenario.kept)
            for what, after in steps(s, rules):
                if after not in seen:
                    seen[after] = (s, what) if trace else None
                    todo.append(after)
        except Broken as broken:
            path = []
            while trace and (step := seen[s]) is not None:
                s, what = step
                path.append(what)
            return len(seen), "\n    ".join([str(broken), *reversed(path)])
    return len(seen), None


A, B = 0, 1


def agents(*them: tuple[str, int] | tuple[str, int, int]) -> tuple[Agent, ...]:
    return tuple(Agent(kind, proc, rest[0] if rest else None) for kind, proc, *rest in them)


WARM = ((1, 1), (0, 0))  # what both hold, and the stamp that they cache
THERE = ((None, 1), (None, 0))  # what only the second holds
OLD = Value(1, 0)
SCENARIOS: dict[str, Scenario] = {
    "cold, group": Scenario(agents(("read", A), ("group", B), ("read", B)), small=True),
    "cold, key": Scenario(agents(("read", A), ("key", B), ("read", B)), small=True),
    "warm, group": Scenario(agents(("read", A), ("read", B), ("group", A), ("read", B)), OLD, *WARM),
    "warm, key": Scenario(agents(("read", A), ("read", B), ("key", A), ("read", B)), OLD, *WARM),
    "two group writers": Scenario(agents(("read", A), ("group", A), ("group", B))),
    "two group writers, warm": Scenario(agents(("read", A), ("group", A), ("group", B)), OLD, *WARM),
    "two key writers": Scenario(agents(("read", A), ("key", A), ("key", B), ("read", A)), OLD),
    "two key writers, warm": Scenario(agents(("read", A), ("key", A), ("key", B)), OLD, *WARM, small=True),
    "group and key writers": Scenario(agents(("read", A), ("group", A), ("key", B)), small=True),
    "remote warm, group": Scenario(agents(("read", A), ("group", B), ("read", B)), OLD, small=True),
    "remote warm, key": Scenario(agents(("read", A), ("key", A), ("read", B)), OLD, small=True),
    "stamp known before": Scenario(agents(("read", A), ("group", B), ("read", B)), cached=(0, 0), small=True),
    "cut, group": Scenario(agents(("cut", A), ("group", B), ("read", A), ("read", A)), OLD, *WARM),
    "cut, key": Scenario(agents(("cut", A), ("key", B), ("read", A), ("read", A)), OLD, *WARM, small=True),
    "cut, local expired": Scenario(
        agents(("cut", A), ("group", B), ("read", A), ("read", A)), OLD, cached=(0, 0), small=True
    ),
    "cut in the writer": Scenario(agents(("cut", A), ("group", A), ("read", A), ("read", B)), OLD, *WARM, small=True),
    "a stamp is made": Scenario(agents(("read", A)), stamp=None, kept=(A,), small=True),
    "a stamp is made, group": Scenario(agents(("read", A), ("group", B)), stamp=None, small=True),
    "a stamp is made by both": Scenario(agents(("read", A), ("read", B)), stamp=None, small=True),
    "a stamp is evicted": Scenario(agents(("read", A), ("evict", A), ("group", B)), OLD, *WARM, small=True),
    "a stamp is evicted, cold": Scenario(agents(("read", A), ("evict", A), ("group", B)), OLD, cached=(0, 0)),
    "a tag's stamp lives longer": Scenario(agents(("tagged", A), ("read", A), ("group", B)), OLD, small=True),
    "a tag's stamp lives longer, own": Scenario(agents(("tagged", A), ("read", A), ("group", A)), OLD),
    "two tags' stamps live longer": Scenario(agents(("tagged", A), ("tagged", A), ("group", B)), OLD),
    "a stamp that lived longer expires": Scenario(
        agents(("tagged", A), ("evict", B), ("group", B)), OLD, *WARM, small=True
    ),
    "a stamp expires while it is cached": Scenario(agents(("read", A), ("tagged", B), ("evict", A)), OLD, *WARM),
    "own group, then a read": Scenario(agents(("group", A), ("read", A, 0)), OLD, *WARM, kept=(A,), small=True),
    "own key, then a read": Scenario(agents(("key", A), ("read", A, 0)), OLD, *WARM, kept=(A,), small=True),
    "own group twice": Scenario(agents(("group", A), ("group", A), ("read", A)), OLD, *WARM),
    "a group sent twice": Scenario(agents(("group again", A), ("read", B), ("group", B, 1))),
    "a group sent twice, warm": Scenario(agents(("group again", A), ("read", A), ("group", B, 1)), OLD, *WARM),
    "result tag": Scenario(agents(("result tag", A), ("tag", B)), small=True),
    "result tag, read by both": Scenario(agents(("result tag", A), ("tag", B), ("result tag", B)), OLD),
    "result tag, own": Scenario(agents(("result tag", A), ("tag", A)), OLD, stamp=None, small=True),
    "result tag, warm": Scenario(agents(("result tag", A), ("tag", B), ("result tag", B)), OLD, *WARM, small=True),
    "result tag, and a takeover": Scenario(agents(("result tag", B), ("tag", A), ("takeover", A, 1))),
    "set": Scenario(agents(("read", A), ("set", A), ("read", B)), small=True),
    "set, warm": Scenario(agents(("read", A), ("set", B), ("read", B), ("read", A)), OLD, *WARM),
    "set and cut": Scenario(agents(("read", A), ("set", B), ("cut", A)), OLD, *WARM, small=True),
    "set, key": Scenario(agents(("set", A), ("key", B), ("read", B)), OLD, *WARM, small=True),
    "two sets": Scenario(agents(("set", A), ("set", B), ("read", A)), OLD, *WARM),
    "glob": Scenario(agents(("read", A), ("glob", B), ("read", B)), OLD, small=True),
    "glob, cold": Scenario(agents(("read", A), ("glob", A), ("read", B)), small=True),
    "strong, group": Scenario(agents(("strong", A), ("group", B), ("strong", A)), OLD, *WARM, small=True),
    "strong, key": Scenario(agents(("strong", A), ("key", B), ("strong", A)), OLD, *WARM, small=True),
    "strong, set": Scenario(agents(("strong", A), ("set", B), ("strong", A)), OLD, *WARM),
    "strong, glob": Scenario(agents(("strong", A), ("glob", B), ("strong", A)), OLD, *WARM, small=True),
    "strong, result tag": Scenario(agents(("strong result tag", A), ("tag", B)), OLD, *WARM, small=True),
    "strong, two writers": Scenario(agents(("strong", A), ("group", B), ("key", A)), OLD, *WARM),
    "strong, a stamp is evicted": Scenario(agents(("strong", A), ("evict", A), ("group", B)), OLD, cached=(0, 0)),
    "a stamp is made while an invalidation is on its way": Scenario(
        agents(("strong", A), ("evict", A), ("group", B)), OLD, *WARM
    ),
    "strong, cut": Scenario(agents(("cut", A), ("group", B), ("strong", A)), OLD, *WARM, small=True),
    "strong and bounded": Scenario(agents(("read", A), ("group", B), ("strong", A)), OLD, *WARM, small=True),
    "strong and bounded, cold": Scenario(agents(("strong", A), ("group", B), ("read", A)), small=True),
    "strong and bounded, elsewhere": Scenario(
        agents(("read", B), ("group", B), ("strong", A), ("read", B)), OLD, *WARM
    ),
    "refused, group": Scenario(
        agents(("refuse", A), ("group", A), ("time", A, 1), ("read", B)), OLD, *THERE, small=True
    ),
    "refused, key": Scenario(agents(("refuse", A), ("key", A), ("time", A, 1), ("read", B)), OLD, *THERE, small=True),
    "refused, and its own read": Scenario(agents(("refuse", A), ("group", A), ("time", A, 1), ("read", A)), OLD, *WARM),
    "refused, a running load": Scenario(
        agents(("refuse", A), ("group", A), ("time", A, 1), ("read", B), ("read", B, 2))
    ),
    "refused, then the writer dies": Scenario(
        agents(("refuse", A), ("group", A), ("die", A, 1), ("time", B, 2), ("read", B)), OLD, *THERE, small=True
    ),
    "refused, read by who starts later": Scenario(
        agents(("refuse for good", A), ("group", A), ("time", A, 1), ("later", B, 1), ("read", B)),
        OLD,
        later=(B,),
        small=True,
    ),
    "refused, and not published": Scenario(
        agents(("refuse for good", A), ("group", A), ("time", A, 1), ("read", B)), OLD, *THERE, mute=True, small=True
    ),
    "refused, and a channel cut": Scenario(
        agents(("refuse for good", A), ("group", A), ("cut", B), ("time", A, 1), ("read", B)), OLD, *THERE
    ),
}

CAUGHT_BY = {
    "lease_checked": "cold, key", "takeover": "cold, group", "stamp_before_load": "cold, group",
    "stamp_checked": "cold, group", "local_guard": "cold, group", "stamp_guard": "cold, group",
    "forget_own_stamp": "a stamp is evicted", "push_drops_local": "cold, group", "own_drops_local": "cold, group",
    "cut_distrusts": "cut, local expired", "reconnect_empties": "cut, key", "echo_known": "own group, then a read",
    "echo_verified": "a stamp is made, group", "echo_written": "a tag's stamp lives longer",
    "marker_names_writer": "two key writers, warm", "any_tag_first": "result tag", "any_tag_last": "result tag",
    "tags_again": "result tag, and a takeover",
    "set_takes_lease": "set", "set_under_lease": "set, key", "leases_first": "glob, cold",
    "strong_asks": "strong, group", "strong_not_local": "strong, group",
    "probe_required": "refused, and not published", "read_carries_probe": "refused, read by who starts later",
    "received_is_held_back": "refused, then the writer dies",
    "resent_with_new_stamp": "a group sent twice",
    "maker_drops_local": "a stamp is made while an invalidation is on its way",
}  # fmt: skip
"""The scenario to try first."""


def main(arguments: list[str]) -> int:
    bad = 0
    scenarios = {name: sc for name, sc in SCENARIOS.items() if sc.small or "--small" not in arguments}
    trace = "--trace" in arguments
    if "--broken" in arguments:
        for rule in RULES:
            rules = frozenset(RULES) - {rule}
            order = dict.fromkeys([CAUGHT_BY[rule], *scenarios])
            found = ((name, why) for name in order if (why := explore(SCENARIOS[name], rules, trace=trace)[1]))
            name, why = next(found, ("", ""))
            print(f"without {rule:17s} {f'caught: {name}: {why}' if name else 'NOT CAUGHT'}", flush=True)
            bad += not name
        return bool(bad)
    total = 0
    for name, scenario in scenarios.items():
        count, broken = explore(scenario, frozenset(RULES), trace=trace)
        print(
            f"{'FAILS' if broken else 'holds'}  {count:9,d} states  {name}{f': {broken}' if broken else ''}", flush=True
        )
        total += count
        bad += broken is not None
    print(f"{'       ' if bad else 'all hold'}  {total:,d} states")
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
