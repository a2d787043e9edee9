"""Places of education: they apply for the education role, and moderators grant or refuse it."""

from email.utils import format_datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Select, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import aliased

from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.education_schemas import (
    EducationApplicationDetails,
    EducationApplicationInput,
    EducationDecisionInput,
    EducationQuery,
)
from horde.users.roles import change_roles, lock_account
from horde.users.rules import Role, UserFacts
from horde.users.tables import EducationApplication, User

PAGE = 50

log = structlog.get_logger(__name__)


def apply(
    platform: Platform, user: UserFacts, wanted: EducationApplicationInput
) -> EducationApplicationDetails:
    """Leave an application of an account for the moderators.

    Raises, in this order, `AnonForbidden` and `DeletedUser` (403), and `BadRequest` (400) for an account that
    has the role, or an application that nobody has decided yet.
    """
    if user.anonymous:
        raise Forbidden(
            "The account that everybody shares cannot belong to a school. Register for one of your own.",
            "AnonForbidden",
        )
    if user.has(Role.DELETED):
        raise Forbidden(
            "This account is scheduled for deletion and cannot apply for anything.", "DeletedUser"
        )
    if user.has(Role.EDUCATION):
        raise BadRequest("This account has the education role already.")
    values = {"id": new_id(), "user_id": user.id, **wanted.model_dump()}
    values["website"] = wanted.website or None
    try:
        with platform.engine.begin() as db:
            db.execute(insert(EducationApplication).values(values))
            details = _details(
                db.execute(_shown().where(EducationApplication.id == values["id"])).one(), user
            )
    except IntegrityError:
        raise BadRequest(
            "There is an application of this account that the moderators have not decided yet. Please wait."
        ) from None
    log.info("education application", application=details.id, by=user.id)
    return details


def list_applications(
    platform: Platform, user: UserFacts, wanted: EducationQuery
) -> list[EducationApplicationDetails]:
    """50 applications, the latest first: moderators see all of them, others their own."""
    query = _shown().order_by(EducationApplication.id.desc())
    if not user.has(Role.MODERATOR):
        query = query.where(EducationApplication.user_id == user.id)
    if wanted.state is not None:
        query = query.where(EducationApplication.state == wanted.state)
    with platform.read() as db:
        rows = db.execute(query.limit(PAGE).offset((wanted.page - 1) * PAGE)).all()
    return [_details(row, user) for row in rows]


def application_details(
    platform: Platform, user: UserFacts, application_id: str
) -> EducationApplicationDetails:
    """An application of one's own; moderators see any. Raises `NotFound` (404)."""
    with platform.read() as db:
        row = _find(db, application_id)
    if row.user_id != user.id and not user.has(Role.MODERATOR):
        raise _no_application(application_id)
    return _details(row, user)


def decide(
    platform: Platform, moderator: UserFacts, application_id: str, decision: EducationDecisionInput
) -> EducationApplicationDetails:
    """Grant or refuse an application; granting it grants its account the education role.

    Raises, in this order, `NotModerator` (403), `NotFound` (404), and `BadRequest` (400) for one that has
    been decided before, or whose account is going to be deleted and so cannot be granted anything.
    """
    if not moderator.has(Role.MODERATOR):
        raise Forbidden("Only moderators may decide about applications.", "NotModerator")
    with platform.engine.begin() as db:
        row = _find(db, application_id)
        # The account first, as everybody locks it before anything that belongs to it.
        user = lock_account(db, row.user_id)
        if user is None:
            raise _no_application(application_id)
        _close(db, row.id, moderator, decision)
        if decision.granted:
            held = change_roles(db, user, [(Role.EDUCATION, True)], moderator.id)
            if Role.DELETED in held:
                raise BadRequest("This account is going to be deleted, so it cannot be granted a role.")
        details = _details(db.execute(_shown().where(EducationApplication.id == row.id)).one(), moderator)
    users.forget(platform, user)
    log.info("education decided", application=details.id, granted=decision.granted, by=moderator.id)
    return details


def _close(
    db: Connection, application_id: Any, moderator: UserFacts, decision: EducationDecisionInput
) -> None:
    this_if_open = (EducationApplication.id == application_id) & (EducationApplication.state == "open")
    values = {
        "state": "granted" if decision.granted else "refused",
        "decided": func.now(),
        "decided_by": moderator.id,
        "reason": decision.reason or None,
    }
    if not db.execute(update(EducationApplication).where(this_if_open).values(values)).rowcount:
        raise BadRequest(
            "This application has been decided before. To grant or take away the role all the same, change "
            "the account."
        )


_decider = aliased(User)


def _shown() -> Select[Any]:
    return (
        select(
            *EducationApplication.__table__.columns, User.username, _decider.username.label("decider_name")
        )
        .join(User, User.id == EducationApplication.user_id)
        .outerjoin(_decider, _decider.id == EducationApplication.decided_by)
    )


def _find(db: Connection, given: str) -> Any:
    parsed = parse_id(given)
    query = _shown().where(EducationApplication.id == parsed)
    row = db.execute(query).one_or_none() if parsed else None
    if row is None:
        raise _no_application(given)
    return row


def _no_application(given: str) -> NotFound:
    return NotFound(f"There is no application with id {given[:60]}.", "NotFound")


def _details(row: Any, viewer: UserFacts) -> EducationApplicationDetails:
    decided_by = None
    if row.decided_by is not None and viewer.has(Role.MODERATOR):
        decided_by = f"{row.decider_name}#{row.decided_by}"
    return EducationApplicationDetails(
        id=str(row.id),
        user=f"{row.username}#{row.user_id}",
        institution=row.institution,
        website=row.website,
        contact=row.contact,
        purpose=row.purpose,
        state=row.state,
        created=_date(row.created),
        decided=None if row.decided is None else _date(row.decided),
        decided_by=decided_by,
        reason=row.reason,
    )


def _date(moment: Any) -> str:
    return format_datetime(moment.replace(tzinfo=None))
