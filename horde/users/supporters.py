"""Accounts whose owners give money for this horde: what they get each month, and who they are."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import Connection, delete, insert, select, text

from horde.platform.runtime import Platform
from horde.users.supporter_sources import Membership, Source, SupporterError, sources
from horde.users.tables import ANONYMOUS_ID, Supporter, User
from horde.users.transfers import account_number

log = structlog.get_logger(__name__)


def refresh(platform: Platform) -> int:
    """Ask every service that the settings name who its members are; returns how many accounts are.

    What a service says replaces all that it said before. One that fails leaves its members as they were;
    those of a service that is not named any more are forgotten.
    """
    try:
        named = sources(platform.settings)
    except SupporterError as error:
        log.warning("supporters not looked up", reason=str(error))
        return 0
    with platform.engine.begin() as db:
        db.execute(delete(Supporter).where(Supporter.source.not_in([source.name for source in named])))
    return sum(_refresh(platform, source) for source in named)


def _refresh(platform: Platform, source: Source) -> int:
    try:
        members = list(source.members(platform.settings))
    except SupporterError as error:
        log.warning("supporters not looked up", service=source.name, reason=str(error))
        return 0
    with platform.engine.begin() as db:
        rows = _rows(db, source, members)
        db.execute(delete(Supporter).where(Supporter.source == source.name))
        if rows:
            db.execute(insert(Supporter), rows)
    log.info("supporters looked up", service=source.name, members=len(members), accounts=len(rows))
    return len(rows)


def _rows(db: Connection, source: Source, members: Iterable[Membership]) -> list[dict[str, Any]]:
    """One row for each account; several memberships of one are added up."""
    of: defaultdict[int, list[Membership]] = defaultdict(list)
    for member in members:
        user_id = _account(db, member)
        if user_id is None:
            log.warning("supporter without an account", service=source.name, account=member.account)
        else:
            of[user_id].append(member)
    return [
        {
            "source": source.name,
            "user_id": user_id,
            "kudos": sum(member.kudos for member in memberships),
            "name": next((member.name for member in memberships if member.name), None),
            "link": next((member.link for member in memberships if member.link), None),
        }
        for user_id, memberships in sorted(of.items())
    ]


_BY_CONTACT = text("""
    SELECT id FROM users
    WHERE lower(trim(contact)) = lower(:email) AND wiped IS NULL AND id <> :anonymous
        AND NOT EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role IN ('flagged', 'deleted'))
    LIMIT 2
""")


def _account(db: Connection, member: Membership) -> int | None:
    """The account that is meant; by an e-mail address only if no other account gives it as its contact.

    Nobody proves that a contact is theirs, so of several accounts none gets what belongs to one of them.
    """
    if member.account is not None:
        number = account_number(member.account)
        query = select(User.id).where(User.id == number, User.id != ANONYMOUS_ID, User.wiped.is_(None))
        return db.execute(query).scalar_one_or_none()
    if member.email is not None:
        values = {"email": member.email, "anonymous": ANONYMOUS_ID}
        found = db.execute(_BY_CONTACT, values).scalars().all()
        if len(found) > 1:
            log.warning("supporter's e-mail address is the contact of several accounts", accounts=found)
        return found[0] if len(found) == 1 else None
    return None


@dataclass(frozen=True, slots=True)
class Sponsor:
    """Somebody to thank."""

    name: str
    link: str | None
    kudos: int
    """A month; the more, the more they give."""


_SPONSORS = text("""
    SELECT name, link, kudos FROM supporters WHERE name IS NOT NULL ORDER BY kudos DESC, name, user_id
""")


def sponsors(platform: Platform) -> list[Sponsor]:
    """Everybody who supports the horde and has a name to show; those first who give most."""
    with platform.read() as db:
        return [Sponsor(row.name, row.link, row.kudos) for row in db.execute(_SPONSORS)]
