"""What requesters see of their requests: how far they are, what was made, and cancelling."""

import math
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row

from horde.generation import progress, queue, settlement, snapshot
from horde.generation.rules import LaneKey, Progress, seconds_ahead
from horde.generation.rules import progress as count_progress
from horde.image import asked, prospects
from horde.image.judging import Wish
from horde.image.plans import KIND
from horde.image.prospects import Standing
from horde.image.results import describe_result
from horde.moderation import modes, timeouts
from horde.platform.errors import Forbidden, NotFound, Unauthorized
from horde.platform.http import DEFAULT_AGENT
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users import shared_keys
from horde.users.rules import Role, UserFacts

UNKNOWN_WAIT = 10_000
"""Seconds told to those whose request nobody can serve at present."""
WISH_SECONDS = 60.0


def check(platform: Platform, request_id: str, address: str, client_agent: str) -> dict[str, Any]:
    """The fields of `RequestStatusCheck`. Raises `RequestNotFound` (404) for unknown and expired ids.

    Programs that do not say what they are get 403 while their address is in timeout.
    """
    if client_agent == DEFAULT_AGENT and timeouts.timeout_seconds(platform, address):
        raise Forbidden(
            "Calls from your address are not accepted at present. Wait some minutes, and let your program "
            "say what it is in the header Client-Agent.",
            "Forbidden",
        )
    with platform.read() as db:
        row = find(db, request_id)
    return _check_fields(platform, row)


def status(platform: Platform, request_id: str) -> dict[str, Any]:
    """The fields of `RequestStatusStable`: progress and the images so far. Raises `RequestNotFound` (404)."""
    with platform.read() as db:
        row = find(db, request_id)
        made = progress.find_jobs(db, row.id)
    return _status_fields(platform, row, *made)


def cancel(platform: Platform, request_id: str, api_key: str | None = None) -> dict[str, Any]:
    """Hand out nothing more of a request; returns its status as it was just before.

    Jobs under way go on and are paid for. Repeating it is harmless. Raises `RequestNotFound` (404) and, where
    the operator wants to know who cancels, `InvalidAPIKey` (401) and `NotOwner` (403).
    """
    caller = _canceller(platform, api_key) if platform.settings.cancel_needs_key else None
    with platform.engine.begin() as db:
        row = find(db, request_id)
        if caller is not None and caller.id != row.user_id and not caller.has(Role.MODERATOR):
            raise Forbidden("Only whoever sent this request may cancel it. Use their API key.", "NotOwner")
        made = progress.find_jobs(db, row.id)
        queue.cancel(db, [row.id])
        settlement.release_if_complete(db, row.id)
    return _status_fields(platform, row, *made)


def _canceller(platform: Platform, api_key: str | None) -> UserFacts:
    if api_key is None:
        raise Unauthorized(
            "On this horde requests are cancelled with the API key that they were sent with, in the header "
            "apikey.",
            "InvalidAPIKey",
        )
    return shared_keys.identify(platform, api_key).user


def find(db: Connection, request_id: str) -> Row[Any]:
    """An image request with its progress. Raises `RequestNotFound` (404)."""
    parsed = parse_id(request_id)
    row = progress.find_request(db, parsed, KIND) if parsed else None
    if row is None:
        raise _no_request(request_id)
    return row


def _no_request(request_id: str) -> NotFound:
    return NotFound(
        f"There is no image request with id {request_id[:60]}. Requests are kept for about "
        "20 minutes after their last activity.",
        "RequestNotFound",
    )


def _check_fields(platform: Platform, row: Row[Any]) -> dict[str, Any]:
    counted = count_progress(n=row.n, faulted=row.faulted, states=row.states)
    position, wait, possible = 0, float(row.seconds_left), counted.processing > 0
    fields: dict[str, Any] = {}
    if counted.waiting:
        speeds, fields = _prospects(platform, row)
        possible = possible or bool(speeds)
        requests, results, things = snapshot.places(platform, KIND).before(row.rank)
        position = requests + 1
        wait += seconds_ahead(things + float(row.things) * row.n, results + row.n, speeds)
    elif not counted.processing:
        possible = not counted.faulted
    return {
        **_counts(counted),
        # Some programs sleep for as long as this says, so only a finished request says 0.
        "wait_time": 0 if counted.done else UNKNOWN_WAIT if math.isinf(wait) else max(1, round(wait)),
        "queue_position": position,
        "kudos": float(round(row.kudos)),
        "is_possible": possible,
        **fields,
    }


def _prospects(platform: Platform, row: Row[Any]) -> tuple[prospects.Speeds, dict[str, Any]]:
    """Who could serve a request; when nobody can, with the field that explains it."""
    standing = _standing(platform, row)
    try:
        speeds = prospects.able(platform, standing)
        if speeds or modes.modes(platform).raid:
            return speeds, {}
        return (), {"explain": prospects.explain(platform, standing.wish())}
    except NotFound:
        # It was deleted since its row was read, so there is nothing left to explain.
        return (), {}


def _standing(platform: Platform, row: Row[Any]) -> Standing:
    return Standing(
        lane_ids=row.lanes,
        lanes=lambda: [
            LaneKey(KIND, model, UUID(target), int(needs, 2), size_class)
            for model, target, needs, size_class in row.standing
        ],
        size=row.size,
        avoided=row.workers if row.worker_blacklist else (),
        choosy=bool(row.workers) and not row.worker_blacklist,
        user_id=row.user_id,
        any_model=not row.models,
        wish=lambda: _wish(platform, row.id),
    )


def _wish(platform: Platform, request_id: UUID) -> Wish:
    """What a request asks for, which never changes, with the words that workers refused a minute ago."""

    def load() -> Wish:
        with platform.read() as db:
            row = progress.find_wishes(db, request_id)
        if row is None:
            raise _no_request(str(request_id))
        return Wish(
            asked=asked.read(row.payload, row.options, r2=row.r2),
            names=tuple(row.models),
            workers=frozenset(row.workers),
            avoids=row.worker_blacklist,
            user_id=row.user_id,
            words=prospects.refused_words(platform, row.prompt),
        )

    return platform.local.get(f"wish:{request_id}", WISH_SECONDS, load)


def _counts(counted: Progress) -> dict[str, Any]:
    return {
        "finished": counted.finished,
        "processing": counted.processing,
        "restarted": counted.restarted,
        "waiting": counted.waiting,
        "done": counted.done,
        "faulted": counted.faulted,
    }


def _status_fields(
    platform: Platform, row: Row[Any], delivered: Sequence[Row[Any]], under_way: Sequence[Row[Any]]
) -> dict[str, Any]:
    fields = {
        **_check_fields(platform, row),
        "generations": [describe_result(platform, job, r2=row.r2) for job in delivered],
        "shared": False,
    }
    if under_way:
        fields["processing_by"] = [
            {"worker_id": str(job.worker_id), "worker_name": job.worker_name, "seconds": job.seconds}
            for job in under_way
        ]
    return fields
