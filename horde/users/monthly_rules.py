"""When monthly kudos are due."""

import calendar
from datetime import datetime


def month_after(moment: datetime) -> datetime:
    """The same day and time of the next month, or its last day when it is shorter."""
    year, month = divmod(moment.year * 12 + moment.month, 12)
    day = min(moment.day, calendar.monthrange(year, month + 1)[1])
    return moment.replace(year=year, month=month + 1, day=day)


def due(last: datetime | None, now: datetime) -> datetime | None:
    """When the kudos to pay `now` count as received, or None when none are due.

    They are due if none were received yet or the last more than a month ago. The date moves on by whole
    months, so it does not drift; months that were missed are skipped, and not made up for.
    """
    if last is None:
        return now
    received = last
    while (following := month_after(received)) < now:
        received = following
    return None if received == last else received
