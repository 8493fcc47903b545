"""The steps of `protocol.py`: what each part may do next, in each state. See there for what is checked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import _trust

STAMP, ANY, MARK = "stamp", "any", "mark"  # what is pushed: the group's or tag's stamp, that of any tag, a key's mark
Name = tuple[str, int]  # of a push: what, and for marks the writer
Told = tuple[str, Name, int, int | None]  # "push" or "reply", its name, the newest version it tells of, the reply


class Value(NamedTuple):
    version: int
    stamp: int | None


class Proc(NamedTuple):
    local: int | None = None  # the version held locally
    known: int | None = None  # the stamp believed current
    queue: tuple[Told, ...] = ()  # what is on its way to the channel
    asked: tuple[tuple[Name, int], ...] = ()  # the channel's questions that the server has not yet seen
    mine: tuple[tuple[str, int], ...] = ()  # stamps expected to be pushed, because they are written here
    settled: tuple[int, ...] = ()  # as it stood after the last push that was asked about
    seen: int = 1  # the newest version whose push was handled
    owed: int = 1  # … and ignored, because an invalidation of our own does the same in a moment
    live: bool = True  # the channel delivers
    trusts: bool = True  # and what was known before it did is forgotten
    vouched: bool = True  # by a heartbeat of the last `max_staleness` whose write was accepted
    young: bool = True  # what is held locally was asked for since then
    pending: tuple[tuple[str, int], ...] = ()  # invalidations that are held back for Redis
    dead: bool = False


class Agent(NamedTuple):
    kind: str
    proc: int
    after: int | None = None  # begins when this other one is done
    pc: str = "begin"
    floor: int = 0  # the version this call must see at least
    fills: bool = True  # nothing has moved the region's epoch since it asked
    keeps: bool = True  # nor the stamps'
    saw: Value | None = None  # what stood under the key
    stamp: int | None = None
    before: int | None = None  # the stamp of any tag, or this one, before it was seen to
    same: bool = True  # no tag has ended since before the load
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
    refuses: bool = False  # the server refuses what would write
    mute: bool = False  # nor can that be published
    late: int = 0  # the newest version whose invalidation had returned anywhere `max_staleness` ago

    def proc(self, p: int, **changes: object) -> State:
        return self._replace(procs=(*self.procs[:p], self.procs[p]._replace(**changes), *self.procs[p + 1 :]))  # type: ignore[arg-type]

    def agent(self, i: int, **changes: object) -> State:
        return self._replace(agents=(*self.agents[:i], self.agents[i]._replace(**changes), *self.agents[i + 1 :]))  # type: ignore[arg-type]

    def fresh(self) -> int:
        """A stamp that is nowhere: random in truth. (The least such, so that states do not differ by history alone.)"""
        used = {self.stamp, self.any, self.value and self.value.stamp, self.lease and self.lease[1]}
        for a in self.agents:
            used |= {a.stamp, a.made, a.before, a.saw and a.saw.stamp}
        for p in self.procs:
            used |= {p.known, *p.settled, *(stamp for _, stamp in p.mine), *(told[3] for told in p.queue)}
        return next(n for n in range(99) if n not in used)

    def push(self, what: str, version: int, writer: int = -1) -> State:
        cycle = dict(self.cycle)
        cycle[what, writer] = max(version, cycle.get((what, writer), 0))
        return self._replace(cycle=tuple(sorted(cycle.items())))

    def epochs(self, p: int, *, fills: bool = True, keeps: bool = True) -> State:
        """What is under way in a process will not be filed."""
        return self._replace(
            agents=tuple(
                a._replace(fills=a.fills and not fills, keeps=a.keeps and not keeps)
                if a.proc == p and a.pc in READING
                else a
                for a in self.agents
            )
        )


class Broken(Exception):
    """A law was."""


Rules = frozenset[str]
"""The rules in force, by their names in `protocol.RULES`."""


def steps(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Every state one step on, and what the step was."""
    if s.cycle:
        told = tuple(("push", name, version, None) for name, version in s.cycle)
        hear = [_trust.listening(s, p) for p in range(len(s.procs))]
        procs = tuple(p._replace(queue=(*p.queue, *told)) if h else p for p, h in zip(s.procs, hear, strict=True))
        after = s._replace(cycle=(), procs=procs)
        yield "the server ends its cycle", after
    for p, proc in enumerate(s.procs):
        if proc.asked:
            (name, version), rest = proc.asked[0], proc.asked[1:]
            reply: Told = ("reply", name, version, s.stamp if name[0] == STAMP else s.any)
            yield f"{p}: the channel's question is answered", s.proc(p, asked=rest, queue=(*proc.queue, reply))
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
            continue  # it waits for a reply, and the cycle's pushes are sent before
        if a.kind in _trust.CHANGES:
            for after in _trust.change(s, i, a):
                yield f"{a.kind}: {a.pc}", after
            continue
        run = {"read": read, "tagged": read, "late": read, "strong": read, "strong late": read, "cut": cut}.get(
            a.kind, write
        )
        for after in run(s, i, a, rules):
            if after.agents[i].pc == "remember" and after.agents[i].stamp is None:
                after = after.agent(i, pc="fresh")
            if after.agents[i].pc == "fresh":  # concerns nobody else, so it need not be a step
                (after,) = run(after, i, after.agents[i], rules)
            yield f"{i} ({a.kind} in {a.proc}): {a.pc}", after


READING = {
    "get", "stamp first", "get any", "get stamp", "remember", "expect", "ensure", "ensured", "lease", "load", "alone",
    "store", "fill", "late expect", "late stamp", "late any", "late checked",
}  # fmt: skip
AFTER_A_REPLY = {
    "remember", "expect", "ensured", "lease", "load", "alone", "late expect", "late checked", "store",
    "fill", "mark", "set", "sweep 1", "sweep 2", "mark again", "local part", "stamp again", "tell stamp",
}  # fmt: skip
BY_STAMP = ("group", "tag", "group again", "takeover")
"""What writes a stamp. `group again` may lose its reply, and is then sent again."""


# The channel


def handle(s: State, p: int, told: Told, rules: Rules) -> State:
    kind, name, version, current = told
    proc, what = s.procs[p], name[0]
    if kind in (_trust.NEWS, _trust.BEAT):
        return _trust.hear(s, p, told, rules)
    expected = [stamp for w, stamp in proc.mine if w == what]
    left = tuple(item for item in proc.mine if item[0] != what)
    if kind == "reply":
        if current is not None:
            s = s.proc(p, mine=left, settled=(current,))
        if current is not None and (current in expected or current in proc.settled):
            return ignored(s, p, version)
        return ended(s, p, what, version, rules)
    if "echo_known" in rules:
        if what == MARK:
            if name[1] == p or expected:
                return ignored(s.proc(p, mine=left), p, version)
        elif expected and "echo_verified" in rules:
            return s.proc(p, asked=(*proc.asked, (name, version)))
        elif expected:
            return ignored(s.proc(p, mine=left), p, version)
    return ended(s, p, what, version, rules)


def ended(s: State, p: int, what: str, version: int, rules: Rules) -> State:
    s = s.epochs(p, keeps=what != MARK).proc(p, seen=max(s.procs[p].seen, version))
    if what == STAMP:
        s = s.proc(p, known=None)
    return s.proc(p, local=None) if "push_drops_local" in rules and what != ANY else s


def ignored(s: State, p: int, version: int) -> State:
    if any(a.proc == p and a.pc == "local part" for a in s.agents):
        return s.proc(p, owed=max(s.procs[p].owed, version))
    return s.proc(p, seen=max(s.procs[p].seen, version))


# A call


def read(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    late = a.kind in ("late", "strong late")  # its tag is named by its result alone
    strong = a.kind in ("strong", "strong late")

    def fresh(value: Value | None) -> bool:
        return value is not None and ("stamp_checked" not in rules or None is not a.stamp == value.stamp)

    match a.pc:
        case "begin" if strong:  # whatever returned anywhere before it was asked
            floor = max(s.returned)
            if proc.local is not None and "strong_not_local" not in rules:
                yield returned(s.agent(i, floor=floor), i, proc.local)
                return
            known = None if "strong_asks" in rules or late else proc.known
            for pc in ("get",) if late or known is not None else ("get", "stamp first"):
                yield s.agent(i, pc=pc, floor=floor, fills=True, keeps=True, stamp=known)
        case "stamp first":  # value and stamp may be on two nodes, which know no common order
            yield s.agent(i, pc="get", stamp=s.stamp)
        case "begin":  # what must this call see?
            exact = s.written if not proc.trusts and proc.local is None else 0  # no channel, so Redis itself is asked
            floor = max(s.returned[p], proc.seen, exact, s.late)
            if proc.local is not None and (proc.vouched or proc.young):
                yield returned(s.agent(i, floor=floor), i, proc.local)
            elif proc.pending:  # first Redis must be told
                yield s.agent(i, pc="alone", floor=floor, fills=True, young=True)
            else:
                known = proc.known if (proc.trusts or "cut_distrusts" not in rules) and not late else None
                known = known if proc.vouched else None
                yield s.agent(i, pc="get", floor=floor, fills=True, keeps=True, stamp=known, young=True)
        case "get" if (
            not (proc.trusts and proc.vouched) and "read_carries_probe" in rules and not _trust.accepted(s, rules)
        ):
            yield s.agent(i, pc="alone")
        case "lease" | "ensure" | "late stamp" if s.refuses:
            yield unexpect(s, i, a).agent(i, pc="alone", saw=None, stamp=None, before=None, made=None)
        case "store" if s.refuses:
            yield returned(s, i, a.version)
        case "get":
            yield s.agent(i, pc="get any" if late else "fresh" if a.stamp is not None else "get stamp", saw=s.value)
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
            elif late:
                yield s.agent(i, pc="lease", stamp=None)
            else:
                yield s.agent(i, pc="expect" if a.stamp is None or a.kind == "tagged" else "lease")
        case "expect" | "late expect":  # a stamp may be made or, of a tag, made to live longer, which is pushed as well
            merely_read = a.stamp if "echo_written" not in rules and not late else None
            before = a.before if late else merely_read
            made = s.fresh()
            pc = "ensure" if not late else "late stamp" if "any_tag_last" in rules else "late any"
            yield expect(s, p, STAMP, made, merely_read).agent(i, pc=pc, made=made, before=before, keeps=True)
        case "ensure" | "late stamp":
            current = a.made if s.stamp is None else s.stamp
            pc = "ensured" if not late else "late any" if "any_tag_last" in rules else "late checked"
            after = s._replace(stamp=current).agent(i, pc=pc, stamp=current)
            if s.stamp is not None:
                yield after.agent(i, wrote=False)  # somebody else has made it
            if s.stamp is None or a.kind == "tagged":
                yield after.agent(i, wrote=True).push(STAMP, 0)
        case "ensured":
            s = keep(unexpect(s, i, a), i, a, a.stamp, rules)
            if a.stamp == a.made and "maker_drops_local" in rules:  # there was none: what was under it has ended
                s = s.epochs(p, keeps=False).proc(p, local=None)
            yield s.agent(i, pc="lease", made=None, before=None, fills=True)
        case "lease":  # the right to load, or a value that has arrived, or somebody else is loading
            under = a.before if late else a.stamp
            if s.value is not None and s.value != a.saw and fresh(s.value):
                yield s.agent(i, pc="fill", version=s.value.version, saw=None, stamp=None, before=None)
            elif s.lease is None or ("takeover" in rules and s.lease[1] != under):
                yield s.agent(i, pc="load", saw=None)._replace(lease=(i, under))
            elif s.lease[1] != under:
                raise Broken("a call waits for a load that is doomed")
            else:
                yield s.agent(
                    i, pc="alone", saw=None, stamp=None, before=None
                )  # the wait is over: it loads for itself (waiting longer is only time)
        case "load":  # the function runs
            yield s.agent(i, pc="late expect" if late else "store", version=s.db)
        case "alone":
            yield s.agent(i, pc="fill", version=s.db)
        case "late any":
            pc = "late checked" if "any_tag_last" in rules else "late stamp"
            yield s.agent(i, pc=pc, same=a.before == s.any)
        case "late checked":
            s = unexpect(s, i, a).agent(i, made=None, before=None)
            yield s.agent(i, pc="store") if a.same else returned(s, i, a.version)  # maybe a tag of the result's
        case "store":
            mine = s.lease is not None and s.lease[0] == i
            stamp = a.stamp if "stamp_before_load" in rules else s.stamp
            if mine or "lease_checked" not in rules:
                s = s.agent(i, pc="fill", stamp=None)
                yield s._replace(value=Value(a.version, stamp), lease=None if mine else s.lease)
            else:
                yield returned(s, i, a.version)  # what was not stored is not filed here either
        case "fill":
            fills = (a.fills or "local_guard" not in rules) and not strong
            yield returned(s.proc(p, local=a.version, young=a.young) if fills else s, i, a.version)


def keep(s: State, i: int, a: Agent, stamp: int | None, rules: Rules) -> State:
    trusts = s.procs[a.proc].trusts or "cut_distrusts" not in rules
    return s.proc(a.proc, known=stamp) if trusts and (a.keeps or "stamp_guard" not in rules) else s


def expect(s: State, p: int, what: str, *stamps: int | None) -> State:
    mine = {*s.procs[p].mine, *((what, stamp) for stamp in stamps if stamp is not None)}
    return s.proc(p, mine=tuple(sorted(mine)))


def unexpect(s: State, i: int, a: Agent) -> State:
    if a.wrote:
        return s
    return s.proc(a.proc, mine=tuple(m for m in s.procs[a.proc].mine if m[1] not in (a.made, a.before)))


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
        same=True,
        young=True,
    )


# An invalidation


def write(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    told = s._replace(written=max(s.written, a.version))
    match a.pc:
        case "begin" if a.kind == "evict":  # not an invalidation: the server forgets a stamp
            yield s._replace(stamp=None).push(STAMP, 0).agent(i, pc="done")
        case "begin" if a.kind == "takeover":  # who takes over has not heard the last of any tag; then it is told again
            yield s._replace(any=1).agent(i, pc="tell any")
        case "tell any":
            pc = "tell stamp" if "tags_again" in rules else "local part"
            yield s._replace(any=s.fresh()).push(ANY, 0).agent(i, pc=pc)
        case "tell stamp":
            yield s._replace(stamp=s.fresh()).push(STAMP, 0).agent(i, pc="local part")
        case "begin" if a.kind == "set":
            yield s.agent(i, pc="get stamp")
        case "begin":  # the commit
            first = {"group": "stamp", "tag": "any" if "any_tag_first" in rules else "stamp", "group again": "stamp"}
            after = s._replace(db=s.db + 1).agent(i, pc=first.get(a.kind, a.kind), version=s.db + 1)
            if a.kind in BY_STAMP:
                after = expect(after, p, STAMP, s.fresh()).agent(i, made=s.fresh())
            if a.kind == "key" and "mark_names_writer" not in rules:
                after = expect(after, p, MARK, 0)
            yield after
        case "stamp" | "any" | "key" if s.refuses:
            yield _trust.refused(s, i, a)
        case "publish":
            yield _trust.publish(s, i, a)
        case "stamp":
            pc = "any" if a.kind == "tag" and "any_tag_first" not in rules else "local part"
            after = told._replace(stamp=a.made).push(STAMP, a.version)
            yield after.agent(i, pc=pc)
            if a.kind == "group again" and a.same:  # the connection dies before the reply: was it done?
                yield after.agent(i, pc="stamp again")
        case "stamp again":
            made = s.fresh() if "again_anew" in rules else a.made
            yield expect(s, p, STAMP, made).agent(i, pc="stamp", made=made, same=False)
        case "any":
            pc = "stamp" if "any_tag_first" in rules else "local part"
            yield s._replace(any=s.fresh()).push(ANY, 0).agent(i, pc=pc)
        case "key":
            yield mark(told._replace(value=None, lease=None), a, rules).agent(i, pc="local part")
        case "get stamp":
            stamp = proc.known if proc.trusts and proc.known is not None else s.stamp
            yield s.agent(i, pc="set lease", stamp=stamp)
        case "set lease":  # and the commit, here at the latest: until then the caller alone vouches for what it puts
            lease = (i, a.stamp) if "set_takes_lease" in rules else s.lease
            after = s._replace(db=s.db + 1, value=None, lease=lease)
            yield after.agent(i, pc="set", version=s.db + 1, before=s.written)
        case "set":
            after = told
            if "set_under_lease" not in rules or (s.lease is not None and s.lease[0] == i):
                if a.stamp == s.stamp and s.written > (a.before or 0):
                    raise Broken("a value put by hand stands over what ended it")
                lease = None if "set_takes_lease" in rules else s.lease
                after = told._replace(value=Value(a.version, a.stamp), lease=lease)
            yield mark(after, a, rules).agent(i, pc="local part", before=None)
        case "glob":
            yield s.push(MARK, 0, p).agent(i, pc="sweep 1")
        case "sweep 1" | "sweep 2":
            if (a.pc == "sweep 1") == ("leases_first" in rules):
                after = s._replace(lease=None)
            else:
                after = s._replace(value=None)
            yield after.agent(i, pc="sweep 2" if a.pc == "sweep 1" else "mark again")
        case "mark again":
            yield mark(told, a, rules).agent(i, pc="local part")
        case "local part":
            s = s.epochs(p, keeps=a.kind in BY_STAMP).proc(p, seen=max(proc.seen, proc.owed))
            if "own_drops_local" in rules:
                s = s.proc(p, local=None)
            if a.kind in BY_STAMP:
                s = s.proc(p, known=None if "forget_own_stamp" in rules else a.made)
            done = (*s.returned[:p], max(s.returned[p], a.version), *s.returned[p + 1 :])
            yield s._replace(returned=done).agent(i, pc="done", stamp=None, made=None, version=0, same=True)


def mark(s: State, a: Agent, rules: Rules) -> State:
    return s.push(MARK, a.version, a.proc if "mark_names_writer" in rules else -1)


def cut(s: State, i: int, a: Agent, rules: Rules) -> Iterator[State]:
    p, proc = a.proc, s.procs[a.proc]
    match a.pc:
        case "begin":  # the connection dies, and with it what was under way
            s = s.proc(p, live=False, trusts=False, queue=(), asked=(), mine=(), settled=()).epochs(p, fills=False)
            if "cut_distrusts" in rules:
                s = s.proc(p, known=None)
            yield s.agent(i, pc="subscribe")
        case "subscribe":
            yield s.proc(p, live=True).agent(i, pc="empty", version=s.written)
        case "empty":
            s = s.epochs(p).proc(p, trusts=True, seen=max(proc.seen, a.version), mine=(), settled=())
            if "reconnect_empties" in rules:
                s = s.proc(p, local=None, known=None)
            yield s.agent(i, pc="done", version=0)
