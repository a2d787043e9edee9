"""Searching the queue for what a worker is to do.

What is found is locked, so that it is the searcher's until its transaction ends; `queue.take` takes it.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, TextClause, text

from horde.generation.rules import ANY_MODEL, ANY_WORKER, NEED_BITS, bits, size_class
from horde.kudos import service as ledger


@dataclass(frozen=True, slots=True)
class Bounds:
    """How much of the queue one search looks at."""

    heads: int
    """Places read over all lanes together, at least 2 of each."""
    per_lane: int
    candidates: int
    """Requests looked at closely."""


NARROW, WIDE = Bounds(512, 32, 64), Bounds(8192, 512, 2000)
MOST_WORDS = 50_000
"""Times that one search looks for a word in a prompt."""
TOP = (-(2**62), UUID(int=0))
"""Rank and request id before everybody's."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can do and for whom, as far as the queue has to know."""

    kind: str
    worker_id: UUID
    models: Sequence[str]
    offered: int
    """Bits of the kind's rule table that the worker meets."""
    size: int
    """Largest result that it makes, pixels."""
    friends: Sequence[int]
    """User ids whose requests come first: its owner and those it names."""
    only_friends: bool
    """Serve nobody else (maintenance)."""
    blacklist: Sequence[str]
    """Lower-case words whose presence in the prompt it refuses."""
    upfront: bool = False
    """Serve only who can pay already, is trusted or a friend."""
    mutual: bool = False
    """Of those who name this worker, serve only friends."""
    unsuited: Collection[str] = ()
    """The `undecided` of requests for which none of `models` would do."""

    @property
    def refusals(self) -> tuple[str, ...]:
        """Which of `REFUSALS` it makes use of."""
        used = {"blacklist": bool(self.blacklist), "kudos": self.upfront}
        return tuple(reason for reason, refuses in used.items() if refuses)


# Written so that PostgreSQL cannot choose to read the whole queue, whatever it knows about the values:
# friends' requests are found first, and each one's places by a subquery that cannot become a join.
# 500 is the most that a known account may have waiting; the anonymous one may have any number.
# PostgreSQL plans it anew each time, which takes longer than running it: what is not needed is left out.
_SERVABLE = """
    SELECT id, model FROM lanes
    WHERE kind = :kind AND model = ANY(CAST(:models AS text[]))
        AND target = ANY(CAST(:targets AS uuid[]))
        AND (needs & CAST(:missing AS bit(128))) = CAST(:none AS bit(128))
        AND size_class <= :size_class
"""
_CANDIDATES = f"""
    WITH servable AS MATERIALIZED (
        {_SERVABLE}
    ), width AS (
        SELECT least(:per_lane, greatest(2, :heads / greatest(1, count(*)))) AS rows FROM servable
    ), befriended AS MATERIALIZED (
        SELECT first.id, first.rank FROM unnest(CAST(:friends AS bigint[])) AS friend (id), LATERAL (
            SELECT id, rank FROM requests
            WHERE user_id = friend.id AND n > 0 AND kind = :kind AND size <= :size
            ORDER BY rank LIMIT 500
        ) first
    ), heads AS (
        SELECT 1 AS pass, servable.id AS lane, head.rank, head.request_id
        FROM servable CROSS JOIN LATERAL (
            SELECT rank, request_id FROM queue
            WHERE lane_id = servable.id AND size <= :size
                AND (rank, request_id) > (:after_rank, CAST(:after_id AS uuid))
            ORDER BY rank, request_id LIMIT (SELECT rows FROM width)
        ) head
        WHERE NOT :only_friends %(unless)s
        UNION ALL
        (
            SELECT 0, 0, rank, id FROM befriended
            WHERE (rank, id) > (:after_rank, CAST(:after_id AS uuid))
                AND (
                    SELECT true FROM queue JOIN servable ON servable.id = queue.lane_id
                    WHERE queue.request_id = befriended.id LIMIT 1
                )
            ORDER BY rank, id LIMIT (SELECT rows FROM width)
        )
    ), candidates AS (
        SELECT min(pass) AS pass, rank, request_id FROM heads
        WHERE request_id <> ALL(CAST(:refused AS uuid[]))
        GROUP BY rank, request_id ORDER BY 1, 2, 3 LIMIT :candidates
    )
"""
_UNNAMED = "AND (SELECT target FROM lanes WHERE lanes.id = servable.id) <> :worker"
"""Lanes of requests that do not ask for this worker."""
# OFFSET 0 keeps PostgreSQL from changing the prompt's case anew for each word.
_WORDED = """EXISTS (
        SELECT FROM (SELECT lower(request.prompt) AS prompt OFFSET 0) low,
            unnest(CAST(:blacklist AS text[])) word
        WHERE strpos(low.prompt, word) > 0
    )"""
_UNPAID = """(
        request.user_id <> ALL(CAST(:friends AS bigint[]))
        AND NOT coalesce(CAST(request.options ->> 'trusted' AS boolean), false)
        AND NOT coalesce(CAST(request.options ->> 'reserved' AS boolean), false)
        AND coalesce(CAST(request.options ->> 'kudos' AS numeric), request.price) > (
            SELECT amount FROM payers WHERE payers.account_id = request.account_id
        )
    )"""
REFUSALS = {"blacklist": _WORDED, "kudos": _UNPAID}
"""What workers may refuse of what they could do: certain words in prompts, requesters who cannot pay yet."""
_OPEN = """
    request.n > 0 AND request.expires > now()
    AND NOT (request.worker_blacklist AND :worker = ANY(request.workers))
"""
_PAYERS = f"""
    , payers AS MATERIALIZED (
        SELECT account_id, {ledger.PAYABLE} AS amount
        FROM (
            SELECT DISTINCT request.account_id
            FROM candidates JOIN requests request ON request.id = candidates.request_id
        ) payers
    )
"""
_PICKED = f"""
    , picked AS (
        SELECT request.id, request.rank, request.n, request.payload, request.options, request.ttl, request.r2,
            request.things, request.price, request.user_id, request.models
        FROM candidates JOIN requests request ON request.id = candidates.request_id
        WHERE {_OPEN}
            AND NOT EXISTS (
                SELECT FROM jobs
                WHERE jobs.request_id = request.id AND jobs.decoy AND jobs.worker_id = :worker
            )
            AND NOT coalesce(request.options ->> 'undecided' = ANY(CAST(:unsuited AS text[])), false)
            %(but)s
        ORDER BY candidates.pass, candidates.rank, candidates.request_id
        LIMIT 1
        FOR UPDATE OF request SKIP LOCKED
    )
"""
# Where a search that looked at all it may must go on from: no further than the last place read of any
# lane that was cut short, and no further than the last candidate if those were cut short.
_REACHED = """
    , last AS (
        SELECT DISTINCT ON (lane) rank, request_id, count(*) OVER (PARTITION BY lane) AS rows
        FROM heads ORDER BY lane, rank DESC, request_id DESC
    ), ends AS (
        SELECT rank, request_id FROM last WHERE rows >= (SELECT rows FROM width)
        UNION ALL (
            SELECT rank, request_id FROM candidates
            WHERE (SELECT count(*) FROM candidates) >= :candidates
            ORDER BY rank DESC, request_id DESC LIMIT 1
        )
    ), reached AS (
        SELECT rank, request_id FROM ends ORDER BY rank, request_id LIMIT 1
    )
"""
_WHETHER_TO_GO_ON = """
    (SELECT count(*) FROM heads) >= (SELECT rows FROM width)
        OR (SELECT count(*) FROM candidates) >= :candidates AS more
"""
_WHERE_TO_GO_ON = """
    (SELECT rank FROM reached) AS reached_rank, (SELECT request_id FROM reached) AS reached_id
"""
_REFUSED = f"""
    , refused AS (
        SELECT %(counts)s FROM candidates JOIN requests request ON request.id = candidates.request_id
        WHERE {_OPEN}
    )
"""
_FOUND = """
    SELECT (SELECT count(*) FROM candidates) AS candidates, picked.*,
        ARRAY(
            SELECT DISTINCT servable.model FROM queue JOIN servable ON servable.id = queue.lane_id
            WHERE queue.request_id = picked.id
        ) AS matched
"""


@cache
def _statement(further: bool, refusals: tuple[str, ...], mutual: bool) -> TextClause:
    """A search at the head of the queue or further on, for a worker that refuses some of what it could do."""
    parts, shown = [_CANDIDATES % {"unless": _UNNAMED if mutual else ""}], [_FOUND]
    if "kudos" in refusals:
        parts.append(_PAYERS)
    parts.append(_PICKED % {"but": " ".join(f"AND NOT {REFUSALS[reason]}" for reason in refusals)})
    if refusals:
        counts = (f"count(*) FILTER (WHERE {REFUSALS[reason]}) AS {reason}" for reason in refusals)
        parts.append(_REFUSED % {"counts": ", ".join(counts)})
        shown += (
            f"CASE WHEN picked.id IS NULL THEN (SELECT {reason} FROM refused) END AS {reason}"
            for reason in refusals
        )
    if further:
        parts.append(_REACHED)
    shown.append(_WHERE_TO_GO_ON if further else _WHETHER_TO_GO_ON)
    statement = "".join(parts) + ", ".join(shown) + " FROM (VALUES (1)) AS one (x) LEFT JOIN picked ON true"
    # The spaces are for people; psycopg reads statements of more than 4,096 characters anew each time.
    return text(" ".join(statement.split()))


_ANYTHING = text(f"""
    SELECT EXISTS (
        SELECT FROM ({_SERVABLE}) servable CROSS JOIN LATERAL (
            SELECT FROM queue WHERE lane_id = servable.id AND size <= :size LIMIT 1
        ) place
    )
""")
_ANYTHING_OF_FRIENDS = text("""
    SELECT EXISTS (
        SELECT FROM requests
        WHERE user_id = ANY(CAST(:friends AS bigint[])) AND n > 0 AND kind = :kind AND size <= :size
    )
""")


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to."""

    request: Row[Any] | None
    """The locked request: `id`, `rank`, `n`, `payload`, `options`, `ttl`, `r2`, `things`, `price`, `user_id`,
    `models` and `matched`, the models (or `ANY_MODEL`) of those of its lanes that fit. None: none of those
    looked at would do."""
    candidates: int
    """How many requests were looked at."""
    refused: Mapping[str, int]
    """How many of them were refused for which of `REFUSALS`, if nothing was found."""
    more: bool = False
    """Whether there may be more, when only the head was looked at."""
    reached: tuple[int, UUID] | None = None
    """Where to go on if there may be more."""


def anything(db: Connection, offer: Offer) -> bool:
    """Whether a request waits that `find` might look at; it locks nothing."""
    statement = _ANYTHING_OF_FRIENDS if offer.only_friends else _ANYTHING
    return bool(db.execute(statement, _values(offer, (), NARROW, TOP)).scalar_one())


def find(db: Connection, offer: Offer, *, refused: Sequence[UUID] = ()) -> Found:
    """Lock the first request in order of service that `offer` fits, looking at the head of the queue only.

    Requests whose rows another worker holds right now are passed over, as are those in `refused` and those
    of which this worker got a decoy.
    """
    statement = _statement(False, offer.refusals, offer.mutual)
    row = db.execute(statement, _values(offer, refused, NARROW, TOP)).one()
    return Found(row if row.id is not None else None, row.candidates, _refused(offer, row), more=row.more)


def find_further(
    db: Connection, offer: Offer, *, refused: Sequence[UUID] = (), after: tuple[int, UUID] = TOP
) -> Found:
    """As `find`, but look at much more of the queue, from `after` (a rank and request id) on.

    With `reached` as the next `after`, repeated calls come by every request, however many are refused.
    """
    statement = _statement(True, offer.refusals, offer.mutual)
    row = db.execute(statement, _values(offer, refused, WIDE, after)).one()
    reached = None if row.reached_id is None else (row.reached_rank, row.reached_id)
    found = row if row.id is not None else None
    return Found(found, row.candidates, _refused(offer, row), reached=reached)


def _refused(offer: Offer, row: Row[Any]) -> dict[str, int]:
    counts = {reason: getattr(row, reason) for reason in offer.refusals}
    return {reason: count for reason, count in counts.items() if count}


def _values(offer: Offer, refused: Sequence[UUID], bounds: Bounds, after: tuple[int, UUID]) -> dict[str, Any]:
    return {
        "kind": offer.kind,
        "models": [*offer.models, ANY_MODEL],
        "targets": [ANY_WORKER, offer.worker_id],
        "worker": offer.worker_id,
        "missing": bits(~offer.offered & ((1 << NEED_BITS) - 1)),
        "none": bits(0),
        "size_class": size_class(offer.size),
        "size": offer.size,
        "friends": list(offer.friends),
        "only_friends": offer.only_friends,
        "blacklist": list(offer.blacklist),
        "unsuited": list(offer.unsuited),
        "refused": list(refused),
        "heads": bounds.heads,
        "per_lane": bounds.per_lane,
        "candidates": min(bounds.candidates, MOST_WORDS // max(1, len(offer.blacklist))),
        "after_rank": after[0],
        "after_id": after[1],
    }
