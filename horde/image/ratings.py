"""Rating images: their requester says how they turned out, once for each request.

They are paid for if the operator's rating service accepts them, for only that can tell whether they are worth
anything. What the requester's own workers made earns nothing: it cost nearly nothing.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid5

import orjson
import structlog
from sqlalchemy import Connection, Row, text

from horde.generation import progress
from horde.generation.rules import progress as count_progress
from horde.image.admission import Sender
from horde.image.plans import KIND
from horde.image.rating_rules import Opinion, judge, reward
from horde.image.rating_schemas import AestheticsPayload
from horde.kudos import service as ledger
from horde.kudos.rules import ZERO, Entry, balanced
from horde.platform import outbound
from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.http import to_json
from horde.platform.ids import parse_id
from horde.platform.outbound import OutboundError, OutboundTimeout
from horde.platform.runtime import Platform
from horde.users import service as users
from horde.users.rules import UserFacts

SERVICE_SECONDS = 3.0
MOST_ANSWER_BYTES = 64 * 1024
MOST_REASON_CHARACTERS = 300

log = structlog.get_logger(__name__)

_RATED = text("SELECT EXISTS (SELECT FROM ratings WHERE request_id = :id)")
# Records outlive workers: who deletes theirs would be somebody else otherwise.
_OWN = text("""
    SELECT job.id, job.charged
    FROM jobs job JOIN generation_records record ON record.id = job.id
    WHERE job.request_id = :id AND record.owner_id = :user_id AND job.charged IS NOT NULL
""")
_STORE = text("""
    INSERT INTO ratings (request_id, user_id, client_agent, best, ratings)
    VALUES (:request_id, :user_id, :client_agent, :best, CAST(:ratings AS jsonb))
    ON CONFLICT (request_id) DO NOTHING
""")


def rate(platform: Platform, sender: Sender, request_id: str, payload: AestheticsPayload) -> Decimal:
    """Keep the requester's ratings of a finished request; returns the kudos that were credited for them.

    These are 0 without a rating service, for images of the requester's own workers, and for anonymous
    requests, which are rated with the anonymous key: nobody's purse could be credited. In any case they are
    at least 1 less than what the request cost, without what its requester paid for their own workers' images.
    Raises, in this order, `RequestNotFound` (404), `InvalidAPIKey` (401), `Forbidden` (403) for somebody
    else's request, and with 400 `AestheticsNotCompleted`, what `rating_rules.judge` raises,
    `AestheticsAlreadyExist`, and what the rating service's refusal amounts to, if the operator has set one.
    After any of these nothing is kept.
    """
    with platform.read() as db:
        request = _find(db, request_id)
        images = [job.id for job in progress.delivered(db, request.id)]
        made = db.execute(_OWN, {"id": request.id, "user_id": request.user_id})
        own = {image.id: image.charged for image in made}
        rated = db.execute(_RATED, {"id": request.id}).scalar_one()
    user = users.authenticate(platform, sender.api_key)
    if user.id != request.user_id:
        raise Forbidden(
            "This request was made by somebody else. Only its requester may rate the images: send the API "
            "key that it was made with.",
            "Forbidden",
        )
    if not count_progress(n=request.n, faulted=request.faulted, states=request.states).done:
        raise BadRequest(
            "The request is not finished yet. Rate its images when its status says done.",
            "AestheticsNotCompleted",
        )
    opinion = judge(payload, images, own)
    if rated:
        raise _already_rated()
    credit = ZERO
    if platform.settings.rating_service_url:
        _hand_on(platform, platform.settings.rating_service_url, sender, user, request.id, images, opinion)
        if not user.anonymous:
            credit = reward(opinion.earned, request.kudos - sum(own.values()))
    _keep(platform, sender, user, request.id, opinion, credit)
    return credit


def _find(db: Connection, request_id: str) -> Row[Any]:
    parsed = parse_id(request_id)
    row = progress.find_request(db, parsed, KIND) if parsed else None
    if row is None:
        raise NotFound(
            f"There is no image request with id {request_id[:60]}. Images can be rated as long as their "
            "request is kept, about 20 minutes after its last activity.",
            "RequestNotFound",
        )
    return row


def _already_rated() -> BadRequest:
    return BadRequest(
        "The images of this request have been rated before. Each request is rated once.",
        "AestheticsAlreadyExist",
    )


def _keep(
    platform: Platform, sender: Sender, user: UserFacts, request_id: UUID, opinion: Opinion, credit: Decimal
) -> None:
    """Store and pay in one transaction; of several calls at once only one gets through."""
    with platform.engine.begin() as db:
        stored = db.execute(
            _STORE,
            {
                "request_id": request_id,
                "user_id": user.id,
                "client_agent": sender.client_agent,
                "best": opinion.best,
                "ratings": orjson.dumps(_described(opinion)).decode(),
            },
        )
        if stored.rowcount == 0:
            raise _already_rated()
        if credit:
            event_id = uuid5(request_id, "rating")
            entries = balanced([Entry(user.balance_account, credit, "awarded")])
            detail = orjson.dumps({"request": request_id}).decode()
            ledger.post(db, event_id, "rating", entries, detail=detail)


def _described(opinion: Opinion) -> list[dict[str, Any]]:
    described = []
    for given in opinion.ratings:
        rating: dict[str, Any] = {"id": given.image, "rating": given.rating}
        if given.artifacts is not None:
            rating["artifacts"] = given.artifacts
        described.append(rating)
    return described


def _hand_on(
    platform: Platform,
    url: str,
    sender: Sender,
    user: UserFacts,
    request_id: UUID,
    images: Sequence[UUID],
    opinion: Opinion,
) -> None:
    """Give the ratings to the rating service. Returns once it has accepted them."""
    details = users.user_details(platform, str(user.id), None)
    body = to_json(
        {
            "set": request_id,
            "all_set_ids": images,
            "client_agent": sender.client_agent,
            "user": {
                "username": details.username,
                "trusted": details.trusted,
                "account_age": details.account_age,
                "kudos": details.kudos,
                "kudos_accumulated": details.kudos_details.accumulated,
                "ipaddr": sender.address,
            },
            "ratings": _described(opinion),
            "best": opinion.best,
        }
    )
    try:
        status, content = outbound.ask_json(
            platform.settings, url, body, max_bytes=MOST_ANSWER_BYTES, seconds=SERVICE_SECONDS
        )
    except OutboundTimeout as error:
        raise _failed("did not answer in time", "AestheticsServerTimeout") from error
    except OutboundError as error:
        log.warning("rating service not reached", reason=str(error))
        raise _failed("cannot be reached", "AestheticsServerDown") from error
    if not 200 <= status < 300:
        raise _refusal(status, content)


def _failed(problem: str, rc: str) -> BadRequest:
    return BadRequest(f"The rating service {problem}. Nothing was credited; try again later.", rc)


def _refusal(status: int, content: bytes) -> BadRequest:
    """The rating service's answer as ours; what it says for people is passed on."""
    if status == 403:
        return _already_rated()
    log.warning("rating service refused", status=status)
    if status < 400:
        return BadRequest(
            f"The rating service gave an answer that this server does not understand, with status {status}.",
            "InvalidAestheticAttempt",
        )
    try:
        told = orjson.loads(content)
    except orjson.JSONDecodeError:
        return _failed(f"refused the ratings with status {status}", "AestheticsServerRejected")
    reason = told.get("message") if isinstance(told, dict) else None
    says = f", saying: {reason[:MOST_REASON_CHARACTERS]}" if isinstance(reason, str) else ""
    return _failed(f"refused the ratings{says}", "AestheticsServerError")
