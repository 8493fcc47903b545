"""Invalidating after the commit: SQLAlchemy's transactions and `Cache.deferred()`.

An invalidation before the commit is too early: whoever asks in between reads the old row, and it is cached once more.
Two ways to have it after, both here:

    with cache.deferred(), transaction(): ...    what the block ends waits for the commit
    end_after_commit(sessions, cache)            the session's events do it for every transaction

Inside the block, what it will end is read past the cache: the function runs, and must see what its transaction has
written. So it takes the session of the transaction under way, if there is one.

Run: python examples/sqlalchemy_commit.py [redis://localhost:6379/0]   (an embedded server without an argument)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar

from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from aikcache import Cache

under_way: ContextVar[Session | None] = ContextVar("under_way", default=None)


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[float]


def end_after_commit(sessions: sessionmaker[Session], cache: Cache) -> None:
    """Every product that a transaction has changed is ended when it has been committed, or rolled back.

    Also then, for somebody may have read and cached what it had written: these events see to no reads, as a block does.
    """

    def note(session: Session, *_: object) -> None:
        changed = {row.id for row in (*session.dirty, *session.deleted) if isinstance(row, Product)}
        session.info.setdefault("changed", set()).update(changed)

    def over(session: Session, *_: object) -> None:
        changed = session.info.pop("changed", ())
        cache.invalidate_tags(*(f"product:{number}" for number in changed))

    event.listen(sessions, "before_flush", note)
    event.listen(sessions, "after_commit", over)
    event.listen(sessions, "after_rollback", over)


def main(url: str) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add(Product(id=1, price=10.0))

    with Cache(url, instance="sqlalchemy-example") as cache:
        cache.clear()

        @contextmanager
        def transaction() -> Iterator[Session]:
            with sessions.begin() as session:
                token = under_way.set(session)
                try:
                    yield session
                finally:
                    under_way.reset(token)

        @cache.cached("product", tags=("product:{number}",))
        def price(number: int) -> float:
            session = under_way.get()
            with sessions() if session is None else nullcontext(session) as session:
                return session.get_one(Product, number).price

        @cache.invalidates(tags=("product:{number}",))
        def reprice(session: Session, number: int, to: float) -> None:
            session.get_one(Product, number).price = to
            session.flush()

        print("before:", price(1))

        with cache.deferred(), transaction() as session:
            reprice(session, 1, 12.5)
            print("inside the transaction:", price(1))
        print("after the commit:", price(1))

        try:
            with cache.deferred(), transaction() as session:
                reprice(session, 1, 99.0)
                raise ValueError("no such price")
        except ValueError:
            print("after the rollback:", price(1))

        end_after_commit(sessions, cache)
        with sessions.begin() as session:
            session.get_one(Product, 1).price = 15.0
        print("after a commit that events followed:", price(1))
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "embedded://")
