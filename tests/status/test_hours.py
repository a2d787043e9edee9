"""What was delivered hour by hour."""

from datetime import UTC, datetime, timedelta

from horde.status.hours import images_by_hour
from tests.support import Horde, change

ADD = "INSERT INTO delivered_totals (hour, kind, model, results, things) VALUES "
HOURS_AGO = ADD + "(date_trunc('hour', now(), 'UTC') - make_interval(hours => :ago), :kind, 'm', :results, 1)"
LONG_AGO = ADD + "('epoch', 'image', 'm', 99, 1)"


def test_the_last_full_hours(horde: Horde) -> None:
    images = [(0, "image", 9), (1, "image", 3), (48, "image", 7), (49, "image", 8)]
    for ago, kind, results in [*images, (1, "text", 5)]:
        change(horde.platform, HOURS_AGO, ago=ago, kind=kind, results=results)
    change(horde.platform, LONG_AGO)
    found = images_by_hour(horde.platform)
    this = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    assert [hour for hour, _ in found] == [this - timedelta(hours=ago) for ago in range(48, 0, -1)]
    assert [count for _, count in found] == [7, *[0] * 46, 3]
