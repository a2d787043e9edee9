"""Teams: workers that count their contributions together."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from horde.moderation.service import is_profane
from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.workers import rules
from horde.workers.schemas import WorkerDetailsLite
from horde.workers.service import LISTED_KEY, TEAMS_KEY
from horde.workers.tables import Team
from horde.workers.team_schemas import (
    ActiveModelLite,
    CreateTeamInput,
    DeletedTeam,
    ModifyTeam,
    ModifyTeamInput,
    TeamDetails,
)

KEPT_SECONDS = 10.0
MEGA = 1_000_000
HIDDEN_MODEL = "horde_special"

log = structlog.get_logger(__name__)

_TEAMS = """
    SELECT teams.*, users.username || '#' || users.id AS creator
    FROM teams JOIN users ON users.id = teams.owner_id
"""
_ALL_TEAMS = text(_TEAMS + " ORDER BY teams.created, teams.id")
_ONE_TEAM = text(_TEAMS + " WHERE teams.id = :id")
_MEMBERS = text("""
    SELECT team_id, id, kind, name, last_seen, speed, models FROM workers
    WHERE team_id = ANY (:teams) ORDER BY created, id
""")


def list_teams(platform: Platform) -> list[TeamDetails]:
    """All teams, the oldest first, as of some seconds ago."""

    def load() -> list[TeamDetails]:
        with platform.read() as db:
            return _describe(db, db.execute(_ALL_TEAMS).all())

    return platform.local.get(TEAMS_KEY, KEPT_SECONDS, load)


def team_details(platform: Platform, team_id: str, api_key: str | None) -> TeamDetails:
    """A team. Raises `TeamNotFound` (404), and `InvalidAPIKey` (401) for a key that no account has."""
    parsed = parse_id(team_id)
    with platform.read() as db:
        teams = db.execute(_ONE_TEAM, {"id": parsed}).all() if parsed else ()
        shown = _describe(db, teams)
    if not shown:
        raise _no_team(team_id)
    if api_key:
        users.authenticate(platform, api_key)
    return shown[0]


def _describe(db: Connection, teams: Sequence[Any]) -> list[TeamDetails]:
    members: dict[Any, list[Any]] = defaultdict(list)
    for row in db.execute(_MEMBERS, {"teams": [team.id for team in teams]}):
        members[row.team_id].append(row)
    now = datetime.now(UTC)
    return [_details(team, members[team.id], now) for team in teams]


def _details(team: Any, members: Sequence[Any], now: datetime) -> TeamDetails:
    workers = [
        WorkerDetailsLite(
            type=each.kind, name=each.name, id=str(each.id), online=rules.online(each.last_seen, now)
        )
        for each in members
    ]
    speeds = [
        each.speed / MEGA for each in members if each.kind == "image" and rules.online(each.last_seen, now)
    ]
    models = Counter(
        model
        for each in members
        if each.kind != "interrogation"
        for model in set(each.models)
        if HIDDEN_MODEL not in model
    )
    return TeamDetails(
        name=team.name,
        id=str(team.id),
        info=team.info,
        creator=team.creator,
        requests_fulfilled=team.fulfilments,
        contributions=round(float(team.contributions) / MEGA, 2),
        kudos=float(team.kudos),
        uptime=team.uptime,
        worker_count=len(members),
        performance=round(sum(speeds) / len(speeds), 1) if speeds else 0.0,
        speed=round(sum(speeds), 1),
        workers=workers,
        models=[
            ActiveModelLite(name=name, count=count)
            for name, count in sorted(models.items(), key=lambda item: (-item[1], item[0]))
        ],
    )


def create_team(platform: Platform, api_key: str, new: CreateTeamInput) -> ModifyTeam:
    """Found a team.

    Raises, in this order, `InvalidAPIKey` (401), `AnonForbidden`, `DeletedUser` and
    `UntrustedTeamCreation` (403), and, with 400, `TeamNameAlreadyExists`, `BadRequest` for a name that cannot
    be shown, `ProfaneTeamName` and `ProfaneTeamInfo`.
    """
    user = users.authenticate(platform, api_key)
    if user.anonymous:
        raise Forbidden(
            "The anonymous account cannot found a team. Register for an account of your own.", "AnonForbidden"
        )
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot found a team.", "DeletedUser")
    if not user.trusted:
        raise Forbidden(
            "Only trusted accounts may found a team. Ask the moderators, or wait until yours is trusted.",
            "UntrustedTeamCreation",
        )
    try:
        with platform.engine.begin() as db:
            _check_free(db, new.name)
            _check_decent(platform, name=new.name, info=new.info)
            values = {"id": new_id(), "name": new.name, "info": new.info or "", "owner_id": user.id}
            db.execute(insert(Team).values(values))
    except IntegrityError:
        raise _name_taken(new.name) from None
    _forget(platform)
    log.info("team founded", team=str(values["id"]), by=user.id)
    return ModifyTeam(id=str(values["id"]), name=new.name, info=new.info)


def find_team(platform: Platform, team_id: str) -> str:
    """The id of a team that exists. Raises `TeamNotFound` (404)."""
    parsed = parse_id(team_id)
    with platform.read() as db:
        if parsed is None or db.execute(select(Team.id).where(Team.id == parsed)).first() is None:
            raise _no_team(team_id)
    return str(parsed)


def change_team(platform: Platform, api_key: str, team_id: str, change: ModifyTeamInput) -> ModifyTeam:
    """Change what `change` names, all at once or, when any of it is refused, nothing.

    Raises `InvalidAPIKey` (401), `NoTeamModSelected` (400) and `TeamNotFound` (404); for whoever is neither
    owner nor moderator `NotOwner` (info) or `NotModerator` (name) (403); and, with 400, `ProfaneTeamInfo`,
    `ProfaneTeamName` and `TeamNameAlreadyExists`.
    """
    user = users.authenticate(platform, api_key)
    values = change.model_dump(exclude_unset=True)
    if not values:
        raise BadRequest("The body names nothing to change. Send name or info.", "NoTeamModSelected")
    try:
        with platform.engine.begin() as db:
            team = _locked(db, team_id)
            if change.info is not None:
                _check_may(user, team, "NotOwner")
                _check_decent(platform, info=change.info)
            if change.name is not None:
                _check_may(user, team, "NotModerator")
                _check_decent(platform, name=change.name)
                _check_free(db, change.name, but=team.id)
            db.execute(update(Team).where(Team.id == team.id).values(values))
    except IntegrityError:
        raise _name_taken(str(change.name)) from None
    _forget(platform)
    log.info("team changed", team=team_id, fields=sorted(values), by=user.id)
    return ModifyTeam(id=team_id, name=change.name or team.name, info=change.info)


def remove_team(platform: Platform, api_key: str, team_id: str) -> DeletedTeam:
    """Dissolve a team; its workers go on without one.

    Raises `InvalidAPIKey` (401), `TeamNotFound` (404) and `NotModerator` (403) unless it is the caller's own.
    """
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        team = _locked(db, team_id)
        _check_may(user, team, "NotModerator")
        db.execute(delete(Team).where(Team.id == team.id))
    _forget(platform)
    log.info("team removed", team=team_id, name=team.name, by=user.id)
    return DeletedTeam(deleted_id=team_id, deleted_name=team.name)


def _locked(db: Connection, team_id: str) -> Any:
    query = select(*Team.__table__.columns).where(Team.id == parse_id(team_id)).with_for_update()
    team = db.execute(query).one_or_none()
    if team is None:
        raise _no_team(team_id)
    return team


def _check_may(user: UserFacts, team: Any, rc: str) -> None:
    if user.id != team.owner_id and not user.has(Role.MODERATOR):
        raise Forbidden("Only a team's owner and moderators may do this.", rc)


def _check_free(db: Connection, name: str, but: Any = None) -> None:
    """Raise `TeamNameAlreadyExists` when a team other than `but` is called `name`, in upper or lower case."""
    same = select(Team.id).where(func.lower(Team.name) == func.lower(name), Team.id.is_distinct_from(but))
    if db.execute(same).first() is not None:
        raise _name_taken(name)


def _check_decent(platform: Platform, *, name: str | None = None, info: str | None = None) -> None:
    if name and not rules.readable(name):
        raise BadRequest(
            "The team's name cannot be seen, or holds a line break, a control character or a mark that "
            "changes the direction of writing. Please choose another."
        )
    if name and is_profane(platform, name):
        raise BadRequest("The team's name holds a profane word. Please choose another.", "ProfaneTeamName")
    if info and is_profane(platform, info):
        raise BadRequest("The team's info holds a profane word. Please reword it.", "ProfaneTeamInfo")


def _name_taken(name: str) -> BadRequest:
    return BadRequest(
        f"There is a team called '{name}' already. Choose another name.", "TeamNameAlreadyExists"
    )


def _no_team(given: str) -> NotFound:
    return NotFound(f"There is no team with id {given[:60]}.", "TeamNotFound")


def _forget(platform: Platform) -> None:
    platform.local.drop(TEAMS_KEY, LISTED_KEY)
