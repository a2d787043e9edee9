"""What was delivered in the last minute, hour, day and 30 days, and ever.

Each figure is exact as of some seconds ago: full hours come from totals that the leader folds, the parts of
hours at the ends of a period from the records themselves.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text

from horde.generation.rules import DELIVERED
from horde.platform.runtime import Platform
from horde.status import rules
from horde.status.models import is_known
from horde.status.readings import reading

MODEL_PERIODS = ("day", "month", "total")

_STATES = ", ".join(f"'{state}'" for state in sorted(DELIVERED))
COUNTED = f"state IN ({_STATES}) AND model <> ''"
"""The records that count: results that were accepted, of models that may be named."""

# Bounds are read beforehand, for the planner to see how few records lie between them.
# A record tells when its statement began; by five minutes later that one has ended.
_BOUNDS = text("""
    WITH period AS (
        SELECT now() - interval '1 day' AS day, now() - interval '30 days' AS month,
            date_trunc('hour', now() - interval '5 minutes', 'UTC') AS over, (
                SELECT coalesce(max(hour) + interval '1 hour', 'epoch') FROM delivered_totals
            ) AS folded
    )
    SELECT period.*, least(date_trunc('hour', day, 'UTC') + interval '1 hour', folded) AS full_day,
        least(date_trunc('hour', month, 'UTC') + interval '1 hour', folded) AS full_month
    FROM period
""")
"""`day` and `month`: when the periods begin, and (`full_`) from when on totals tell of them; `folded`: up to
when totals exist; `over`: up to when they may be made."""
_FOLD = text(f"""
    INSERT INTO delivered_totals (hour, kind, model, results, things)
    SELECT date_trunc('hour', finished, 'UTC'), kind, model, count(*), sum(things) FROM generation_records
    WHERE finished >= :folded AND finished < :over AND {COUNTED}
    GROUP BY 1, 2, 3
    ON CONFLICT DO NOTHING
""")
# The newest hour always stays, as it tells how far records are folded.
_MERGE = text("""
    WITH old AS (
        DELETE FROM delivered_totals
        WHERE hour > 'epoch' AND hour < now() - interval '31 days'
            AND hour < (SELECT max(hour) FROM delivered_totals)
        RETURNING *
    )
    INSERT INTO delivered_totals (hour, kind, model, results, things)
    SELECT 'epoch', kind, model, sum(results), sum(things) FROM old GROUP BY 2, 3
    ON CONFLICT (hour, kind, model) DO UPDATE SET
        results = delivered_totals.results + excluded.results,
        things = delivered_totals.things + excluded.things
""")


def fold_totals(platform: Platform) -> int:
    """Add the hours that are over to the totals; returns how many rows that made. Run by the leader."""
    with platform.engine.begin() as db:
        bounds = db.execute(_BOUNDS).mappings().one()
        made = db.execute(_FOLD, dict(bounds)).rowcount
        db.execute(_MERGE)
    return made


_BY_MODEL = text(f"""
    WITH record AS NOT MATERIALIZED (
        SELECT kind, model, finished, things FROM generation_records WHERE {COUNTED}
    ), part AS (
        SELECT kind, model, results, things, hour >= :full_day AS of_day, hour >= :full_month AS of_month,
            true AS of_total
        FROM delivered_totals WHERE hour < :folded
        UNION ALL
        SELECT kind, model, 1, things, finished >= :day, finished >= :month, true
        FROM record WHERE finished >= :folded
        UNION ALL
        SELECT kind, model, 1, things, true, false, false
        FROM record WHERE finished >= :day AND finished < :full_day
        UNION ALL
        SELECT kind, model, 1, things, false, true, false
        FROM record WHERE finished >= :month AND finished < :full_month
    )
    SELECT kind, model,
        sum(results) FILTER (WHERE of_day) AS day, sum(things) FILTER (WHERE of_day) AS day_things,
        sum(results) FILTER (WHERE of_month) AS month, sum(things) FILTER (WHERE of_month) AS month_things,
        sum(results) FILTER (WHERE of_total) AS total, sum(things) FILTER (WHERE of_total) AS total_things
    FROM part GROUP BY 1, 2
""")
_LATELY = text(f"""
    SELECT kind, count(*) FILTER (WHERE recent) AS minute, sum(things) FILTER (WHERE recent) AS minute_things,
        count(*) AS hour, sum(things) AS hour_things
    FROM generation_records, LATERAL (SELECT finished > now() - interval '60 seconds' AS recent) age
    WHERE finished > now() - interval '1 hour' AND {COUNTED}
    GROUP BY 1
""")


@dataclass(frozen=True, slots=True)
class Delivered:
    """What was delivered of one kind."""

    totals: dict[str, tuple[int, int]]
    """By period: results and raw things."""
    models: dict[str, dict[str, int]]
    """By period: results by model."""


def image_totals(platform: Platform) -> dict[str, Any]:
    """The fields of `StatsImgTotals`."""
    periods = _delivered(platform, "image").totals.items()
    return {period: {"images": results, "ps": things} for period, (results, things) in periods}


def text_totals(platform: Platform) -> dict[str, Any]:
    """The fields of `StatsTxtTotals`."""
    periods = _delivered(platform, "text").totals.items()
    return {period: {"requests": results, "tokens": things} for period, (results, things) in periods}


def image_models_delivered(platform: Platform, model_state: str) -> dict[str, dict[str, int]]:
    """The fields of `ImgModelStats`, of models in this state.

    Raises `BadRequest` (400) for an unknown `model_state`.
    """
    state = rules.model_state(model_state)
    models = _delivered(platform, "image").models
    return {
        period: {
            name: results
            for name, results in models[period].items()
            if rules.in_state(state, known=is_known(platform, "image", name))
        }
        for period in MODEL_PERIODS
    }


def text_models_delivered(platform: Platform) -> dict[str, dict[str, int]]:
    """The fields of `TxtModelStats`."""
    return _delivered(platform, "text").models


def _delivered(platform: Platform, kind: str) -> Delivered:
    return reading(platform, "delivered", _count, _shape)[kind]


def _count(platform: Platform) -> dict[str, Any]:
    with platform.read() as db:
        bounds = db.execute(_BOUNDS).mappings().one()
        models = db.execute(_BY_MODEL, dict(bounds)).all()
        lately = db.execute(_LATELY).all()
    return {
        "models": [[row.kind, row.model, *(int(value or 0) for value in row[2:])] for row in models],
        "lately": {row.kind: [int(value or 0) for value in row[1:]] for row in lately},
    }


def _shape(counted: dict[str, Any]) -> dict[str, Delivered]:
    return {kind: _of_kind(counted, kind) for kind in ("image", "text")}


def _of_kind(counted: dict[str, Any], kind: str) -> Delivered:
    minute, minute_things, hour, hour_things = counted["lately"].get(kind, (0, 0, 0, 0))
    totals = {"minute": (minute, minute_things), "hour": (hour, hour_things)}
    rows = [row for row in counted["models"] if row[0] == kind]
    models: dict[str, dict[str, int]] = {}
    for place, period in enumerate(MODEL_PERIODS):
        column = 2 + 2 * place
        totals[period] = (sum(row[column] for row in rows), sum(row[column + 1] for row in rows))
        models[period] = {row[1]: row[column] for row in rows if row[column]}
    return Delivered(totals, models)
