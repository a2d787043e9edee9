"""Roles that accounts hold. All changes of them pass here, and each is noted for moderators.

Functions that take a connection are steps of their caller's transaction.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update

from horde.kudos import service as ledger
from horde.users.rules import Role, concurrency_after, roles_after
from horde.users.tables import ANONYMOUS_ID, RoleChange, User, UserRole

_LOCK_WORKERS = text("SELECT id, name, kind FROM workers WHERE owner_id = :id ORDER BY id FOR UPDATE")
_RESUME = text("UPDATE workers SET paused = false WHERE owner_id = :id AND paused")


def lock_account(db: Connection, user_id: int) -> Any | None:
    """The row of an account, which nobody else changes until the transaction ends; None: there is none.

    Whoever changes the account's workers too locks them first (`lock_workers`), as everybody does.
    """
    query = select(*User.__table__.columns).where(User.id == user_id, User.wiped.is_(None))
    return db.execute(query.with_for_update(key_share=True)).one_or_none()


def lock_workers(db: Connection, user_id: int) -> Sequence[Any]:
    """Id, name and kind of an account's workers, which nobody else changes until the transaction ends."""
    return db.execute(_LOCK_WORKERS, {"id": user_id}).all()


def resume_workers(db: Connection, user_id: int) -> None:
    """Let an account's paused workers go on."""
    db.execute(_RESUME, {"id": user_id})


def roles_of(db: Connection, user_id: int) -> frozenset[Role]:
    """The roles that an account holds now."""
    held = db.execute(select(UserRole.role).where(UserRole.user_id == user_id)).scalars()
    return frozenset(map(Role, held))


def change_roles(
    db: Connection, user: Any, changes: Iterable[tuple[Role, bool]], changed_by: int | None
) -> frozenset[Role]:
    """Grant (True) and take away (False) roles, one after another; returns those held then.

    `user` is the row of the account, which the caller has locked. `changed_by` is whoever does it; None: the
    server itself or its operator. An educator may have more results waiting, see `concurrency_after`; whoever
    becomes trusted gets what they earned under evaluation. The anonymous account never holds a role.
    """
    before = roles_of(db, user.id)
    after = before if user.id == ANONYMOUS_ID else frozenset(roles_after(before, changes))
    gone, new = before - after, after - before
    if gone:
        db.execute(delete(UserRole).where(UserRole.user_id == user.id, UserRole.role.in_(gone)))
    if new:
        db.execute(insert(UserRole), [{"user_id": user.id, "role": role.value} for role in sorted(new)])
    if gone or new:
        noted = {"user_id": user.id, "changed_by": changed_by}
        rows = [
            {**noted, "role": role.value, "held_before": role in gone, "held": role in new}
            for role in sorted(gone | new)
        ]
        db.execute(insert(RoleChange), rows)
    if Role.TRUSTED in new:
        ledger.release_escrow(db, user.id)
    concurrency = concurrency_after(user.concurrency, user.concurrency_before_education, before, after)
    if concurrency != (user.concurrency, user.concurrency_before_education):
        values = dict(zip(("concurrency", "concurrency_before_education"), concurrency, strict=True))
        db.execute(update(User).where(User.id == user.id).values(values))
    return after
