"""When a process may use Redis at all: heartbeats that prove more than life, and invalidations that were refused.

Time is one moment, at which `max_staleness` has passed since everything before it. A heartbeat counts only on the side
of that moment on which it was sent. A refused invalidation is published; a receiver keeps it as pending for Redis. See
`protocol.py` for what is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _steps import Agent, Message, Rules, State

NEWS, BEAT = "news", "beat"
CHANGES = ("refuse", "refuse for good", "time", "die", "later")


def begun(s: State) -> bool:
    """Whether this scenario is about trust: in all others every process is always trusted."""
    return any(a.kind in CHANGES for a in s.agents)


def listening(s: State, p: int) -> bool:
    """Whether what a process receives can still matter: in scenarios about trust, to later calls."""
    return s.procs[p].live and (
        not begun(s) or any(a.proc == p and a.kind == "read" and a.pc != "done" for a in s.agents)
    )


def accepted(s: State, rules: Rules) -> bool:
    """Whether a write that changes nothing would be accepted."""
    return not (s.refuses and "probe_required" in rules)


def background(s: State, rules: Rules) -> Iterator[tuple[str, State]]:
    """Heartbeats, and sending Redis what it had refused."""
    if not begun(s):
        return
    for p, proc in enumerate(s.procs):
        waits = any(message[0] == BEAT for message in proc.queue)
        if proc.trusts and not proc.covered and not waits and listening(s, p):
            beat: Message = (BEAT, (BEAT, s.must_see), int(accepted(s, rules)), None)
            yield f"{p}: a heartbeat is answered", s.proc(p, queue=(*proc.queue, beat))
        if proc.pending and not s.refuses:
            yield f"{p}: what was refused is sent", send_pending(s, p)


def send_pending(s: State, p: int) -> State:
    for kind, version in s.procs[p].pending:
        s = s._replace(written=max(s.written, version))
        if kind == "group":
            s = s._replace(stamp=s.fresh()).push("stamp", version).epochs(p, fills=False).proc(p, cached=None)
        else:
            s = s._replace(value=None, lease=None).push("marker", version, p)
    return s.proc(p, pending=())


def held_back(s: State, p: int, kind: str, version: int) -> State:
    newest = {**dict(s.procs[p].pending)}
    newest[kind] = max(version, newest.get(kind, 0))
    return s.proc(p, pending=tuple(sorted(newest.items())))


def refused(s: State, i: int, a: Agent) -> State:
    """The write of an invalidation is refused: it is pending, and will be published."""
    return held_back(s, a.proc, a.kind, a.version).proc(a.proc, expected=()).agent(i, pc="publish", made=None)


def publish(s: State, i: int, a: Agent) -> State:
    news: Message = (NEWS, (a.kind, a.proc), a.version, None)
    receivers = [p.live and not s.mute for p in s.procs]
    procs = tuple(p._replace(queue=(*p.queue, news)) if h else p for p, h in zip(s.procs, receivers, strict=True))
    return s._replace(procs=procs).agent(i, pc="local part")


def receive(s: State, p: int, message: Message, rules: Rules) -> State:
    """The channel receives a refused invalidation, or the reply to its heartbeat."""
    kind, name, version, _ = message
    if kind == BEAT:
        return s.proc(p, covered=bool(version) and name[1] == s.must_see)
    what, writer = name
    if writer == p:
        return s
    s = s.epochs(p).proc(p, local=None, cached=None, seen=max(s.procs[p].seen, version))
    return held_back(s, p, what, version) if "received_is_held_back" in rules else s


def change(s: State, i: int, a: Agent) -> Iterator[State]:
    """Changes of the server, of time, and of processes."""
    if a.kind in ("refuse", "refuse for good"):
        again = a.pc == "begin" and a.kind == "refuse"
        yield s._replace(refuses=not s.refuses).agent(i, pc="again" if again else "done")
    elif a.kind == "later":
        yield s.agent(i, pc="done").proc(a.proc, dead=False)
    elif a.kind == "die":
        if all(b.pc in ("begin", "done") for b in s.agents if b.proc == a.proc and b is not a):
            s = s.proc(a.proc, dead=True, live=False, trusts=False, pending=(), queue=(), questions=(), expected=())
            yield s.agent(i, pc="done")
    elif not any(
        message[0] == NEWS for p in s.procs for message in p.queue
    ):  # a live channel receives it in less time than that
        procs = tuple(p._replace(covered=False, young=False) for p in s.procs)
        agents = tuple(b._replace(young=False) if b.pc not in ("begin", "done") else b for b in s.agents)
        yield s._replace(procs=procs, agents=agents, must_see=max(s.returned)).agent(i, pc="done")
