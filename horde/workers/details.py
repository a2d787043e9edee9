"""Showing workers: all that are online, or one of them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text

from horde.platform.errors import Unauthorized
from horde.platform.http import to_json
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.users.views import Privilege
from horde.workers import messages, rules
from horde.workers.message_schemas import WorkerMessage
from horde.workers.schemas import WorkerDetails
from horde.workers.service import LISTED_KEY, software_table
from horde.workers.views import describe

LISTED_SECONDS = 10.0

_SHOWN = """
    SELECT workers.*, users.username || '#' || users.id AS owner_alias, users.public_workers AS owner_public,
        users.contact AS owner_contact, teams.name AS team_name,
        EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'trusted') AS owner_trusted,
        EXISTS (SELECT FROM user_roles WHERE user_id = users.id AND role = 'flagged') AS owner_flagged,
        (SELECT count(*) FROM suspicions
         WHERE user_id = workers.owner_id AND worker_id = workers.id) AS suspicions
    FROM workers
    JOIN users ON users.id = workers.owner_id
    LEFT JOIN teams ON teams.id = workers.team_id
"""
_SHOWN_BY_ID = text(_SHOWN + " WHERE workers.id = :id")
_SHOWN_BY_NAME = text(_SHOWN + " WHERE workers.name = :name")
_SHOWN_ONLINE = text(
    _SHOWN
    + """
    WHERE last_seen > now() - make_interval(secs => :stale)
    ORDER BY array_position(ARRAY['image', 'text', 'interrogation'], CAST(kind AS text)), workers.created
    """
)


class _Listing:
    """The workers that are online, and the JSON of each as moderators and as others see it."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform
        self._now = datetime.now(UTC)
        with platform.read() as db:
            self.rows = db.execute(_SHOWN_ONLINE, {"stale": rules.STALE_SECONDS}).all()
            self._messages = messages.to_workers(db, [row.id for row in self.rows])
        self._shown: dict[Privilege, list[bytes]] = {}

    def shown(self, privilege: Privilege) -> list[bytes]:
        """All of `rows` for somebody with this privilege everywhere."""
        if privilege not in self._shown:
            self._shown[privilege] = [self.show(row, privilege) for row in self.rows]
        return self._shown[privilege]

    def show(self, row: Any, privilege: Privilege) -> bytes:
        """One of `rows`."""
        return to_json(_describe(self._platform, row, self._messages.get(row.id, ()), privilege, self._now))


def list_workers(platform: Platform, api_key: str | None, *, kind: str | None, name: str | None) -> bytes:
    """The online workers as JSON, as of some seconds ago: all, those of a kind, or the one called `name`.

    `name` may be in upper or lower case, and counts more than `kind`. Owners see more of their own workers
    and moderators of all; a key that no account has counts for nothing.
    """
    viewer = _viewer(platform, api_key)
    listing = platform.local.get(LISTED_KEY, LISTED_SECONDS, lambda: _Listing(platform), bridge=True)
    everywhere = _privilege(viewer, None)
    found = []
    for row, shown in zip(listing.rows, listing.shown(everywhere), strict=True):
        if row.name.lower() != name.lower() if name is not None else kind not in (None, row.kind):
            continue
        privilege = _privilege(viewer, row.owner_id)
        found.append(shown if privilege is everywhere else listing.show(row, privilege))
    return b"[" + b",".join(found) + b"]"


def worker_details(platform: Platform, worker_id: str, api_key: str | None) -> WorkerDetails:
    """A worker, online or not, as the caller may see it. Raises `WorkerNotFound` (404)."""
    parsed = parse_id(worker_id)
    if parsed is None:
        raise rules.no_worker(worker_id)
    return _one(platform, _SHOWN_BY_ID, {"id": parsed}, worker_id, api_key)


def worker_called(platform: Platform, name: str, api_key: str | None) -> WorkerDetails:
    """The worker of exactly this name, like `worker_details`."""
    return _one(platform, _SHOWN_BY_NAME, {"name": name}, name, api_key)


def _one(
    platform: Platform, query: Any, values: dict[str, Any], given: str, api_key: str | None
) -> WorkerDetails:
    with platform.read() as db:
        row = db.execute(query, values).one_or_none()
        if row is None:
            raise rules.no_worker(given)
        told = messages.to_workers(db, [row.id]).get(row.id, ())
    privilege = _privilege(_viewer(platform, api_key), row.owner_id)
    return _describe(platform, row, told, privilege, datetime.now(UTC))


def _describe(
    platform: Platform, row: Any, told: Sequence[WorkerMessage], privilege: Privilege, now: datetime
) -> WorkerDetails:
    software = software_table(platform).capabilities(row.bridge_agent)
    return describe(row, software, told, privilege, now)


def _viewer(platform: Platform, api_key: str | None) -> UserFacts | None:
    try:
        return users.authenticate(platform, api_key) if api_key else None
    except Unauthorized:
        return None


def _privilege(viewer: UserFacts | None, owner_id: int | None) -> Privilege:
    """What `viewer` may see of the workers of an account, or (None) of everybody's."""
    if viewer is None or viewer.anonymous:
        return Privilege.PUBLIC
    if viewer.has(Role.MODERATOR):
        return Privilege.MODERATOR
    return Privilege.OWNER if viewer.id == owner_id else Privilege.PUBLIC
