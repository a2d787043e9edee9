"""What waits, who is there to do it, and how fast it went lately: one reading for all that show it."""

from dataclasses import dataclass, field
from typing import Any

import orjson
from sqlalchemy import text

from horde.generation.rules import DELIVERED, FASTEST, SHORTEST_SECONDS
from horde.platform.runtime import Platform
from horde.status.readings import reading
from horde.workers.rules import STALE_SECONDS

KINDS = ("image", "text", "interrogation")


@dataclass(frozen=True, slots=True)
class Amount:
    """How much it is."""

    results: int = 0
    """Those that nobody has taken, and those under way."""
    things: float = 0.0
    """Raw units (pixelsteps, tokens) in all of them."""


@dataclass(frozen=True, slots=True)
class KindStanding:
    """Everything about one kind of generation."""

    queued: Amount = Amount()
    queued_by_model: dict[str, Amount] = field(default_factory=dict)
    """A request counts for each model that it would accept, and for none if it accepts all."""
    workers: int = 0
    """Those that asked for jobs lately, also when in maintenance or paused, and"""
    threads: int = 0
    """their threads."""
    threads_by_model: dict[str, int] = field(default_factory=dict)
    """Of workers that are not in maintenance."""
    past_minute: float = 0.0
    """Raw things delivered."""
    speeds: dict[str, float] = field(default_factory=dict)
    """By model: mean raw things per second over the deliveries of the last hour."""


Standing = dict[str, KindStanding]
"""By kind."""


def standing(platform: Platform) -> Standing:
    """How the horde stands, as of some seconds ago. Everything in it was counted together."""
    return reading(platform, "standing", _count, _shape)


# A request lives on after its time while somebody works on it, but nothing more of it is handed out.
_QUEUED = text("""
    WITH live AS (
        SELECT kind, models, things, n AS results FROM requests
        WHERE n > 0 AND expires > now() AND NOT faulted
        UNION ALL
        SELECT request.kind, request.models, request.things, 1
        FROM jobs JOIN requests request ON request.id = jobs.request_id
        WHERE jobs.state = 'processing' AND NOT jobs.decoy AND NOT request.faulted
    ), wanted AS MATERIALIZED (
        SELECT kind, models, sum(results) AS results, sum(CAST(things AS numeric) * results) AS things
        FROM live GROUP BY 1, 2
    )
    SELECT kind, NULL AS model, sum(results) AS results, sum(things) AS things FROM wanted GROUP BY 1
    UNION ALL
    SELECT kind, model, sum(results), sum(things) FROM wanted, unnest(models) AS model GROUP BY 1, 2
""")
_WORKERS = text("""
    WITH online AS MATERIALIZED (
        SELECT kind, threads, models, maintenance FROM workers
        WHERE kind = ANY(CAST(:kinds AS text[])) AND last_seen > now() - make_interval(secs => :stale)
    )
    SELECT kind, NULL AS model, count(*) AS workers, sum(threads) AS threads FROM online GROUP BY 1
    UNION ALL
    SELECT kind, model, count(*), sum(threads) FROM online, unnest(models) AS model
    WHERE NOT maintenance GROUP BY 1, 2
""")
# What a worker took at once is one piece of work: as many results as came of it took until the last of them.
_SPEEDS = text("""
    WITH work AS (
        SELECT kind, model, count(*) AS results, least(
            sum(things) / greatest(extract(epoch FROM max(finished) - started), :shortest),
            CAST(CAST(:fastest AS jsonb) ->> kind AS numeric)
        ) AS speed
        FROM generation_records
        WHERE finished > now() - interval '1 hour' AND state = ANY(CAST(:delivered AS text[]))
            AND model <> ''
        GROUP BY kind, model, worker_id, started
    )
    SELECT kind, model, sum(speed * results) / sum(results) AS speed FROM work GROUP BY 1, 2
""")
_PAST_MINUTE = text("""
    SELECT kind, sum(things) AS things FROM generation_records
    WHERE finished > now() - interval '60 seconds' AND state = ANY(CAST(:delivered AS text[])) GROUP BY 1
""")


def _count(platform: Platform) -> dict[str, Any]:
    delivered = sorted(DELIVERED)
    speeds = {
        "delivered": delivered,
        "shortest": SHORTEST_SECONDS,
        "fastest": orjson.dumps(dict(FASTEST)).decode(),
    }
    with platform.read() as db:
        queued = db.execute(_QUEUED).all()
        workers = db.execute(_WORKERS, {"kinds": list(KINDS), "stale": STALE_SECONDS}).all()
        paces = db.execute(_SPEEDS, speeds).all()
        minute = db.execute(_PAST_MINUTE, {"delivered": delivered}).all()
    return {
        "queued": [[row.kind, row.model, int(row.results), float(row.things)] for row in queued],
        "workers": [[row.kind, row.model, row.workers, row.threads] for row in workers],
        "speeds": [[row.kind, row.model, float(row.speed)] for row in paces],
        "minute": {row.kind: float(row.things) for row in minute},
    }


def _shape(counted: dict[str, Any]) -> Standing:
    return {kind: _of_kind(counted, kind) for kind in KINDS}


def _of_kind(counted: dict[str, Any], kind: str) -> KindStanding:
    queued = {model: Amount(results, things) for k, model, results, things in counted["queued"] if k == kind}
    workers = {model: (many, threads) for k, model, many, threads in counted["workers"] if k == kind}
    total = queued.pop(None, Amount())
    many, threads = workers.pop(None, (0, 0))
    return KindStanding(
        queued=total,
        queued_by_model=queued,
        workers=many,
        threads=threads,
        threads_by_model={model: threads for model, (_, threads) in workers.items()},
        past_minute=counted["minute"].get(kind, 0.0),
        speeds={model: speed for k, model, speed in counted["speeds"] if k == kind},
    )
