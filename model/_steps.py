"""The steps of `protocol.py`: what each part may do next, in each state. See there for what is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import _trust

STAMP, ANY, MARKER = "stamp", "any", "marker"  # names that are pushed: a stamp, that of any tag, a key's marker
Name = tuple[str, int]  # of a push: what, and for markers the writer
Message = tuple[str, Name, int, int | None]  # "push" or "reply", its name, its newest version, the reply


class Value(NamedTuple):
    version: int
    stamp: int | None


class Proc(NamedTuple):
    local: int | None = None  # the version held locally
    cached: int | None = None  # the stamp cached as current
    queue: tuple[Message, ...] = ()  # messages on their way to the channel
    questions: tuple[tuple[Name, int], ...] = ()  # the channel's questions that the server has not seen yet
    expected: tuple[tuple[str, int], ...] = ()  # stamps whose push is expected, because they are written here
    last_pushed: tuple[int, ...] = ()  # the stamp after the last push that was checked
    seen: int = 1  # the newest version whose push was handled
    owed: int = 1  # … and ignored, because the process's own invalidation is about to do the same
    live: bool = True  # the channel delivers
    trusts: bool = True  # and what was cached before it did is forgotten
    covered: bool = True  # by a heartbeat of the last `max_staleness` whose write was accepted
    young: bool = True  # the local value was requested since then
    pending: tuple[tuple[str, int], ...] = ()  # invalidations that Redis refused
    dead: bool = False


class Agent(NamedTuple):
    kind: str
    proc: int
    after: int | None = None  # begins when this other one is done
    pc: str = "begin"
    floor: int = 0  # the version this call must see at least
    fills: bool = True  # the region's epoch has not changed since it began
    keeps: bool = True  # nor the stamps'
    saw: Value | None = None  # the value under the key
    stamp: int | None = None
    before: int | None = None  # the stamp of any tag, or this one, before it was ensured
    tags_unchanged: bool = True  # no tag was invalidated since before the load
    made: int | None = None
    wrote: bool = False
    version: int = 0
    young: bool = True  # it began less than `max_staleness` ago


class State(NamedTuple):
    db: int
    value: Value | None
    lease: tuple[int, int | None] | None  # its owner, and the stamp it loads under
    stamp: int | None
    any: int
    cycle: tuple[tuple[Name, int], ...]  # written in this cycle: each name, with the newest version
    procs: tuple[Proc, ...]
    agents: tuple[Agent, ...]
    returned: tuple[int, ...] = (1, 1)  # per process: the newest version whose invalidation has returned there
    written: int = 1  # the newest version whose invalidation has reached Redis
    refuses: bool = False  # the server refuses writes
    mute: bool = False  # and messages cannot be published
    must_see: int = 0  # the newest version whose invalidation had returned anywhere `max_staleness` ago

    def proc(self, p: int, **changes: object) -> State:
        return self._replace(procs=(*self.procs[:p], self.procs[p]._replace(**changes), *self.procs[p + 1 :]))  # type: ignore[arg-type]

    def agent(self, i: int, **changes: object) -> State:
        return self._replace(agents=(*self.agents[:i], self.agents[i]._replace(**changes), *self.agents[i + 1 :]))  # type: ignore[arg-type]

    def fresh(self) -> int:
        """A new stamp: the least unused one, not a random one, so that states do not differ by history alone."""
        used = {self.stamp, self.any, self.value and self.value.stamp, self.lease and self.lease[1]}
        for a in self.agents:
            used |= {a.stamp, a.made, a.before, a.saw and a.saw.stamp}
        for p in self.procs:
            used |= {
                p.cached,
                *p.last_pushed,
                *(stamp for _, stamp in p.expected),
                *(message[3] for message in p.queue),
            }
        return next(n for n in range(99) if n not in used)

    def push(self, what: str, version: int, writer: int = -1) -> State:
        cycle = dict(self.cycle)
        cycle[what, writer] = max(version, cycle.get((what, writer), 0))
        return self._replace(cycle=tuple(sorted(cycle.items())))

    def epochs(self, p: int, *, fills: bool = True, keeps: bool = True) -> State:
        """Results of running calls in a process will not be filed."""
        return self._replace(
            agents=tuple(
                a._replace(fills=a.fills and not fills, keeps=a.keeps and not keeps)
                if a.proc == p and a.pc in READING
                else a
                for a in self.agents
            )
        )


class Broken(Exception):
    """A guarantee was broken."""


Rules = frozenset[str]
"""The rules in force, by their names in `protocol.RULES`."""


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Every next state, and the step that leads to it."""
    if s.cycle:
        messages = tuple(("push", name, version, None) for name, version in s.cycle)
        receivers = [_trust.listening(s, p) for p in range(len(s.procs))]
        procs = tuple(
            p._replace(queue=(*p.queue, *messages)) if h else p for p, h in zip(s.procs, receivers, strict=True)
        )
        after = s._replace(cycle=(), procs=procs)
        yield "the server ends its cycle", after
    for p, proc in enumerate(s.procs):
        if proc.questions:
            (name, version), rest = proc.questions[0], proc.questions[1:]
            reply: Message = ("reply", name, version, s.stamp if name[0] == STAMP else s.any)
            yield f"{p}: the channel's question is answered", s.proc(p, questions=rest, queue=(*proc.queue, reply))
        if proc.queue:
            first, after = proc.queue[0], s.proc(p, queue=proc.queue[1:])
            yield f"{p}: the channel handles {first}", handle(after, p, first, rules)
    yield from _trust.background(s, rules)
    for i, a in enumerate(s.agents):
        if s.procs[a.proc].dead and a.kind != "later":
            continue
        if a.pc == "done" or (a.pc == "begin" and a.after is not None and s.agents[a.after].pc != "done"):
            continue
        if s.cycle and a.pc in AFTER_A_REPLY:
            continue  # it waits for a reply, and the cycle's pushes are sent first
        if a.kind in _trust.CHANGES:
            for after in _trust.change(s, i, a):
                yield f"{a.kind}: {a.pc}", after
            continue
        run = {
            "read": read,
            "tagged": read,
            "result tag": read,
            "strong": read,
            "strong result tag": read,
            "cut": cut,
        }.get(a.kind, write)
        for after in run(s, i, a, rules):
            if after.agents[i].pc == "remember" and after.agents[i].stamp is None:
                after = after.agent(i, pc="fresh")
            if after.agents[i].pc == "fresh":  # concerns no other part, so it need not be a step
                (after,) = run(after, i, after.agents[i], rules)
            yield f"{i} ({a.kind} in {a.proc}): {a.pc}", after


READING = {
    "get", "stamp first", "get any", "get stamp", "remember", "expect", "ensure", "ensured", "lease", "load", "alone",
    "store", "fill", "result expect", "result stamp", "result any", "result checked",
}  # fmt: skip
AFTER_A_REPLY = {
    "remember", "expect", "ensured", "lease", "load", "alone", "result expect", "result checked", "store",
    "fill", "marker", "set", "sweep 1", "sweep 2", "marker again", "local part", "stamp again", "send stamp",
}  # fmt: skip
BY_STAMP = ("group", "tag", "group again", "takeover")
"""Agents that write a stamp. `group again` may lose its reply, and is then sent again."""


# The channel


def handle(s: State, p: int, message: Message, rules: Rules) -> State:
    kind, name, version, current = message
    proc, what = s.procs[p], name[0]
    if kind in (_trust.NEWS, _trust.BEAT):
        return _trust.receive(s, p, message, rules)
    expected = [stamp for w, stamp in proc.expected if w == what]
    left = tuple(item for item in proc.expected if item[0] != what)
    if kind == "reply":
        if current is not None:
            s = s.proc(p, expected=left, last_pushed=(current,))
        if current is not None and (current in expected or current in proc.last_pushed):
            return ignored(s, p, version)
        return invalidated(s, p, what, version, rules)
    if "echo_known" in rules:
        if what == MARKER:
            if name[1] == p or expected:
                return ignored(s.proc(p, expected=left), p, version)
        elif expected and "echo_verified" in rules:
            return s.proc(p, questions=(*proc.questions, (name, version)))
        elif expected:
            return ignored(s.proc(p, expected=left), p, version)
    return invalidated(s, p, what, version, rules)


def invalidated(s: State, p: int, what: str, version: int, rules: Rules) -> State:
    s = s.epochs(p, keeps=what != MARKER).proc(p, seen=max(s.procs[p].seen, version))
    if what == STAMP:
        s = s.proc(p, cached=None)
    return s.proc(p, local=None) if "push_drops_local" in rules and what != ANY else s


def ignored(s: State, p: int, version: int) -> State:
    sends_again = (a.kind == "group again" and (a.pc == "stamp again" or not a.tags_unchanged) for a in s.agents)
    if any(a.proc == p and (a.pc == "local part" or again) for a, again in zip(s.agents, sends_again, strict=True)):
        return s.proc(p, owed=max(s.procs[p].owed, version))
    return s.proc(p, seen=max(s.procs[p].seen, version))


# A call


def read(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    by_result = a.kind in ("result tag", "strong result tag")  # only its result names its tag
    strong = a.kind in ("strong", "strong result tag")

    def fresh(value: Value | None) -> bool:
        return value is not None and ("stamp_checked" not in rules or None is not a.stamp == value.stamp)

    match a.pc:
        case "begin" if strong:  # everything that returned anywhere before it began
            floor = max(s.returned)
            if proc.local is not None and "strong_not_local" not in rules:
                yield returned(s.agent(i, floor=floor), i, proc.local)
                return
            cached = None if "strong_asks" in rules or by_result else proc.cached
            for pc in ("get",) if by_result or cached is not None else ("get", "stamp first"):
                yield s.agent(i, pc=pc, floor=floor, fills=True, keeps=True, stamp=cached)
        case "stamp first":  # value and stamp may be on two nodes, which have no common order
            yield s.agent(i, pc="get", stamp=s.stamp)
        case "begin":  # what must this call see?
            exact = (
                s.written if not proc.trusts and proc.local is None else 0
            )  # without a channel Redis itself is asked
            floor = max(s.returned[p], proc.seen, exact, s.must_see)
            if proc.local is not None and (proc.covered or proc.young):
                yield returned(s.agent(i, floor=floor), i, proc.local)
            elif proc.pending:  # Redis must get these first
                yield s.agent(i, pc="alone", floor=floor, fills=True, young=True)
            else:
                cached = proc.cached if (proc.trusts or "cut_distrusts" not in rules) and not by_result else None
                cached = cached if proc.covered else None
                asks = s.agent(i, floor=floor, fills=True, keeps=True, stamp=cached, young=True)
                yield asks.agent(i, pc="get")
                if cached is not None and a.kind == "read":  # where there is mostly no value
                    yield asks.agent(i, pc="lease")
        case "get" if (
            not (proc.trusts and proc.covered) and "read_carries_probe" in rules and not _trust.accepted(s, rules)
        ):
            yield s.agent(i, pc="alone")
        case "lease" | "ensure" | "result stamp" if s.refuses:
            yield unexpect(s, i, a).agent(i, pc="alone", saw=None, stamp=None, before=None, made=None)
        case "store" if s.refuses:
            yield returned(s, i, a.version)
        case "get":
            yield s.agent(
                i, pc="get any" if by_result else "fresh" if a.stamp is not None else "get stamp", saw=s.value
            )
        case "get any":
            yield s.agent(i, pc="get stamp" if a.saw else "lease", before=s.any)
        case "get stamp":
            yield s.agent(i, pc="remember", stamp=s.stamp)
        case "remember":
            yield keep(s, i, a, a.stamp, rules).agent(i, pc="fresh")
        case "fresh":
            if fresh(a.saw):
                assert a.saw is not None
                yield s.agent(i, pc="fill", version=a.saw.version, saw=None, stamp=None, before=None)
            elif by_result:
                yield s.agent(i, pc="lease", stamp=None)
            else:
                yield s.agent(i, pc="expect" if a.stamp is None or a.kind == "tagged" else "lease")
        case "expect" | "result expect":  # a stamp may be created or a tag's life extended, which is pushed too
            merely_read = a.stamp if "echo_written" not in rules and not by_result else None
            before = a.before if by_result else merely_read
            made = s.fresh()
            pc = "ensure" if not by_result else "result stamp" if "any_tag_last" in rules else "result any"
            yield expect(s, p, STAMP, made, merely_read).agent(i, pc=pc, made=made, before=before, keeps=True)
        case "ensure" | "result stamp":
            current = a.made if s.stamp is None else s.stamp
            pc = "ensured" if not by_result else "result any" if "any_tag_last" in rules else "result checked"
            after = s._replace(stamp=current).agent(i, pc=pc, stamp=current)
            if s.stamp is not None:
                yield after.agent(i, wrote=False)  # another process has created it
            if s.stamp is None or a.kind == "tagged":
                yield after.agent(i, wrote=True).push(STAMP, 0)
        case "ensured":
            s = keep(unexpect(s, i, a), i, a, a.stamp, rules)
            if (
                a.stamp == a.made and "maker_drops_local" in rules
            ):  # there was none: values under earlier ones are invalid
                s = s.epochs(p, keeps=False).proc(p, local=None)
            yield s.agent(i, pc="lease", made=None, before=None, fills=True)
        case "lease":  # the right to load, or a value that has arrived, or another load is running
            under = a.before if by_result else a.stamp
            if s.value is not None and s.value != a.saw and fresh(s.value):
                yield s.agent(i, pc="fill", version=s.value.version, saw=None, stamp=None, before=None)
            elif s.lease is None or ("takeover" in rules and s.lease[1] != under):
                yield s.agent(i, pc="load", saw=None)._replace(lease=(i, under))
            elif s.lease[1] != under:
                raise Broken("a call waits for a load that was invalidated")
            else:
                yield s.agent(
                    i, pc="alone", saw=None, stamp=None, before=None
                )  # the wait is over: it loads by itself (a longer wait is only time)
        case "load":  # the function runs
            yield s.agent(i, pc="result expect" if by_result else "store", version=s.db)
        case "alone":
            yield s.agent(i, pc="fill", version=s.db)
        case "result any":
            pc = "result checked" if "any_tag_last" in rules else "result stamp"
            yield s.agent(i, pc=pc, tags_unchanged=a.before == s.any)
        case "result checked":
            s = unexpect(s, i, a).agent(i, made=None, before=None)
            yield (
                s.agent(i, pc="store") if a.tags_unchanged else returned(s, i, a.version)
            )  # perhaps one of the result's tags
        case "store":
            mine = s.lease is not None and s.lease[0] == i
            stamp = a.stamp if "stamp_before_load" in rules else s.stamp
            if mine or "lease_checked" not in rules:
                s = s.agent(i, pc="fill", stamp=None)
                yield s._replace(value=Value(a.version, stamp), lease=None if mine else s.lease)
            else:
                yield returned(s, i, a.version)  # a value that was not stored is not filed here either
        case "fill":
            fills = (a.fills or "local_guard" not in rules) and not strong
            yield returned(s.proc(p, local=a.version, young=a.young) if fills else s, i, a.version)


def keep(s: State, i: int, a: Agent, stamp: int | None, rules: Rules) -> State:
    trusts = s.procs[a.proc].trusts or "cut_distrusts" not in rules
    return s.proc(a.proc, cached=stamp) if trusts and (a.keeps or "stamp_guard" not in rules) else s


def expect(s: State, p: int, what: str, *stamps: int | None) -> State:
    mine = {*s.procs[p].expected, *((what, stamp) for stamp in stamps if stamp is not None)}
    return s.proc(p, expected=tuple(sorted(mine)))


def unexpect(s: State, i: int, a: Agent) -> State:
    if a.wrote:
        return s
    return s.proc(a.proc, expected=tuple(m for m in s.procs[a.proc].expected if m[1] not in (a.made, a.before)))


def returned(s: State, i: int, version: int) -> State:
    if version < s.agents[i].floor:
        raise Broken(f"a call in {s.agents[i].proc} got version {version}, and must see {s.agents[i].floor}")
    return s.agent(
        i,
        pc="done",
        floor=0,
        saw=None,
        stamp=None,
        before=None,
        made=None,
        version=0,
        fills=True,
        keeps=True,
        wrote=False,
        tags_unchanged=True,
        young=True,
    )


# An invalidation


def write(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    reached = s._replace(written=max(s.written, a.version))
    match a.pc:
        case "begin" if a.kind == "evict":  # not an invalidation: the server loses a stamp
            yield s._replace(stamp=None).push(STAMP, 0).agent(i, pc="done")
        case "begin" if a.kind == "takeover":  # the new primary lacks any tag's last stamp; it is then sent again
            yield s._replace(any=1).agent(i, pc="send any")
        case "send any":
            pc = "send stamp" if "tags_again" in rules else "local part"
            yield s._replace(any=s.fresh()).push(ANY, 0).agent(i, pc=pc)
        case "send stamp":
            yield s._replace(stamp=s.fresh()).push(STAMP, 0).agent(i, pc="local part")
        case "begin" if a.kind == "set":
            yield s.agent(i, pc="get stamp")
        case "begin":  # the commit
            first = {"group": "stamp", "tag": "any" if "any_tag_first" in rules else "stamp", "group again": "stamp"}
            after = s._replace(db=s.db + 1).agent(i, pc=first.get(a.kind, a.kind), version=s.db + 1)
            if a.kind in BY_STAMP:
                after = expect(after, p, STAMP, s.fresh()).agent(i, made=s.fresh())
            if a.kind == "key" and "marker_names_writer" not in rules:
                after = expect(after, p, MARKER, 0)
            yield after
        case "stamp" | "any" | "key" if s.refuses:
            yield _trust.refused(s, i, a)
        case "publish":
            yield _trust.publish(s, i, a)
        case "stamp":
            pc = "any" if a.kind == "tag" and "any_tag_first" not in rules else "local part"
            after = reached._replace(stamp=a.made).push(STAMP, a.version)
            yield after.agent(i, pc=pc)
            if (
                a.kind == "group again" and a.tags_unchanged
            ):  # the connection dies before the reply: was it carried out?
                yield after.agent(i, pc="stamp again")
        case "stamp again":
            made = s.fresh() if "resent_with_new_stamp" in rules else a.made
            yield expect(s, p, STAMP, made).agent(i, pc="stamp", made=made, tags_unchanged=False)
        case "any":
            pc = "stamp" if "any_tag_first" in rules else "local part"
            yield s._replace(any=s.fresh()).push(ANY, 0).agent(i, pc=pc)
        case "key":
            yield marker(reached._replace(value=None, lease=None), a, rules).agent(i, pc="local part")
        case "get stamp":
            stamp = proc.cached if proc.trusts and proc.cached is not None else s.stamp
            yield s.agent(i, pc="set lease", stamp=stamp)
        case "set lease":  # and the commit, here at the latest: until then the value is only the caller's claim
            lease = (i, a.stamp) if "set_takes_lease" in rules else s.lease
            after = s._replace(db=s.db + 1, value=None, lease=lease)
            yield after.agent(i, pc="set", version=s.db + 1)
        case "set":
            after = reached
            if "set_under_lease" not in rules or (s.lease is not None and s.lease[0] == i):
                if a.stamp == s.stamp and s.written > a.version:
                    raise Broken("a value put by hand has survived what invalidated it")
                lease = None if "set_takes_lease" in rules else s.lease
                after = reached._replace(value=Value(a.version, a.stamp), lease=lease)
            yield marker(after, a, rules).agent(i, pc="local part", before=None)
        case "glob":
            yield s.push(MARKER, 0, p).agent(i, pc="sweep 1")
        case "sweep 1" | "sweep 2":
            if (a.pc == "sweep 1") == ("leases_first" in rules):
                after = s._replace(lease=None)
            else:
                after = s._replace(value=None)
            yield after.agent(i, pc="sweep 2" if a.pc == "sweep 1" else "marker again")
        case "marker again":
            yield marker(reached, a, rules).agent(i, pc="local part")
        case "local part":
            s = s.epochs(p, keeps=a.kind in BY_STAMP).proc(p, seen=max(proc.seen, proc.owed))
            if "own_drops_local" in rules:
                s = s.proc(p, local=None)
            if a.kind in BY_STAMP:
                s = s.proc(p, cached=None if "forget_own_stamp" in rules else a.made)
            done = (*s.returned[:p], max(s.returned[p], a.version), *s.returned[p + 1 :])
            yield s._replace(returned=done).agent(i, pc="done", stamp=None, made=None, version=0, tags_unchanged=True)


def marker(s: State, a: Agent, rules: Rules) -> State:
    return s.push(MARKER, a.version, a.proc if "marker_names_writer" in rules else -1)


def cut(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    match a.pc:
        case "begin":  # the connection dies, with all messages on their way
            s = s.proc(p, live=False, trusts=False, queue=(), questions=(), expected=(), last_pushed=()).epochs(
                p, fills=False
            )
            if "cut_distrusts" in rules:
                s = s.proc(p, cached=None)
            yield s.agent(i, pc="subscribe")
        case "subscribe":
            yield s.proc(p, live=True).agent(i, pc="empty", version=s.written)
        case "empty":
            s = s.epochs(p).proc(p, trusts=True, seen=max(proc.seen, a.version), expected=(), last_pushed=())
            if "reconnect_empties" in rules:
                s = s.proc(p, local=None, cached=None)
            yield s.agent(i, pc="done", version=0)
