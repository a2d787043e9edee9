"""How much was delivered hour by hour."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from horde.platform.runtime import Platform
from horde.status.readings import reading

HOURS = 48

_HOURS = text("""
    SELECT CAST(extract(epoch FROM hour) AS bigint) AS hour, sum(results) AS results FROM delivered_totals
    WHERE kind = 'image' AND hour > now() - make_interval(hours => :hours + 2) GROUP BY 1
""")


def images_by_hour(platform: Platform) -> list[tuple[datetime, int]]:
    """Each of the last 48 full hours in UTC, the oldest first, and how many images were delivered in it.

    The last one is complete some minutes after it is over.
    """
    counted = reading(platform, "hours", _count, lambda found: found["hours"])
    this = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [this - timedelta(hours=ago) for ago in range(HOURS, 0, -1)]
    return [(hour, counted.get(str(int(hour.timestamp())), 0)) for hour in hours]


def _count(platform: Platform) -> dict[str, Any]:
    with platform.read() as db:
        rows = db.execute(_HOURS, {"hours": HOURS}).all()
    return {"hours": {str(row.hour): int(row.results) for row in rows}}
