"""Invalidating after the commit: SQLAlchemy's transactions and `Cache.deferred()`.

An invalidation before the commit is too early: whoever asks in between reads the old row, and it is cached once more.
Two ways to have it after, both here:

    with cache.deferred(), Session.begin() as session: ...    what the block ends waits for the commit
    end_after_commit(Session, cache)                          the session's events do it for every transaction

Run: python examples/sqlalchemy_commit.py [redis://localhost:6379/0]   (an embedded server without an argument)
"""

from __future__ import annotations

import sys

from sqlalchemy import create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker
from sqlalchemy.pool import StaticPool

from aikcache import Cache


class Base(DeclarativeBase):
    pass


class Product(Base):
    __tablename__ = "product"
    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[float]


def end_after_commit(sessions: sessionmaker[Session], cache: Cache) -> None:
    """Every product that a transaction has changed is ended once it has committed, and not if it is rolled back."""

    def note(session: Session, *_: object) -> None:
        changed = {row.id for row in (*session.dirty, *session.deleted) if isinstance(row, Product)}
        session.info.setdefault("changed", set()).update(changed)

    def committed(session: Session) -> None:
        changed = session.info.pop("changed", ())
        cache.invalidate_tags(*(f"product:{number}" for number in changed))

    def rolled_back(session: Session, *_: object) -> None:
        session.info.pop("changed", None)

    event.listen(sessions, "before_flush", note)
    event.listen(sessions, "after_commit", committed)
    event.listen(sessions, "after_rollback", rolled_back)


def main(url: str) -> None:
    engine = create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    Base.metadata.create_all(engine)
    sessions = sessionmaker(engine)
    with sessions.begin() as session:
        session.add(Product(id=1, price=10.0))

    with Cache(url, instance="sqlalchemy-example") as cache:
        cache.clear()

        @cache.cached("product", tags=("product:{number}",))
        def price(number: int) -> float:
            with sessions() as session:
                return session.get_one(Product, number).price

        @cache.invalidates(tags=("product:{number}",))
        def reprice(session: Session, number: int, to: float) -> None:
            session.get_one(Product, number).price = to
            session.flush()

        print("before:", price(1))

        with cache.deferred(), sessions.begin() as session:
            reprice(session, 1, 12.5)
            print("inside the transaction:", price(1))
        print("after the commit:", price(1))

        try:
            with cache.deferred(), sessions.begin() as session:
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
