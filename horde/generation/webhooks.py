"""Telling requesters' own servers about results, and operators about what they should look at.

Whatever has something to tell puts its message into the outbox within its own transaction, so that none
is lost and none tells of something that was rolled back. The leader sends them; a message may arrive twice
if the leader dies between the call and noting its end.
"""

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import structlog
from sqlalchemy import Connection, Row, text

from horde.platform import outbound
from horde.platform.http.responses import to_json
from horde.platform.ids import new_id
from horde.platform.runtime import Platform

CALLS = 8
CALLS_PER_HOST = 2
CALL_SECONDS = 3.0
PAUSES = (10, 60, 300, 1200)
"""Seconds until the next try after each failed one; the failure after the last pause is final. The links in
a message hold for half an hour, so that the last try comes before that."""
LEASE_SECONDS = 60
"""After this long without an end a call counts as lost, because its process has died."""
MOST_CHAT_CHARACTERS = 1900
"""Chat servers refuse messages of more than 2000."""
LIFETIME_SECONDS = 1800
"""Older messages are dropped untried, so that what waits for a host that never answers stays bounded."""

OPERATOR = "operator"
"""Stands for the host of messages to the operator. Their addresses are secrets of the settings, so each is
looked up there when its message is sent."""

log = structlog.get_logger(__name__)


class Notice(StrEnum):
    """What an operator may be told, by the setting that holds the address of the chat to tell it to."""

    PAUSED = "paused_notice_webhook"
    PROBLEM_USER = "problem_user_webhook"


NOTICES = frozenset(Notice)

_ENQUEUE = text("INSERT INTO outbox (id, host, url, body) VALUES (:id, :host, :url, :body)")


def enqueue(db: Connection, url: str, body: Mapping[str, Any]) -> None:
    """Have `body` posted as JSON to `url`, once the transaction of `db` commits.

    `url` must have passed `outbound.check_url`; `body` may hold dates, UUIDs and decimals.
    """
    host = urlsplit(url).hostname
    db.execute(_ENQUEUE, {"id": new_id(), "host": host, "url": url, "body": to_json(body).decode()})


def notify(db: Connection, notice: Notice, content: str) -> None:
    """Tell the operator `content`, once the transaction of `db` commits; without an address it is logged."""
    body = to_json({"content": content[:MOST_CHAT_CHARACTERS]}).decode()
    db.execute(_ENQUEUE, {"id": new_id(), "host": OPERATOR, "url": notice.value, "body": body})


# Hops from host to host in the index, so that a long backlog of one costs nothing to look past.
_CLAIM = text("""
    WITH RECURSIVE hosts AS (
        SELECT min(host) AS host FROM outbox
        UNION ALL
        SELECT (SELECT min(outbox.host) FROM outbox WHERE outbox.host > hosts.host)
        FROM hosts WHERE hosts.host IS NOT NULL
    ), head AS (
        SELECT first.id FROM hosts, LATERAL (
            SELECT id, due FROM outbox WHERE outbox.host = hosts.host ORDER BY due LIMIT 1
        ) first
        WHERE hosts.host <> ALL (:busy)
        ORDER BY first.due LIMIT :limit
    ), claimed AS (
        SELECT outbox.id FROM outbox JOIN head ON head.id = outbox.id
        WHERE outbox.due <= now() FOR UPDATE OF outbox SKIP LOCKED
    )
    UPDATE outbox SET attempts = attempts + 1, due = now() + make_interval(secs => :lease)
    FROM claimed WHERE outbox.id = claimed.id
    RETURNING outbox.id, outbox.host, outbox.url, outbox.body, outbox.attempts,
        outbox.created < now() - make_interval(secs => :lifetime) AS expired
""")
_DELETE = text("DELETE FROM outbox WHERE id = :id")
_POSTPONE = text("UPDATE outbox SET due = now() + make_interval(secs => :pause) WHERE id = :id")


class Sender:
    """Sends what is in the outbox, in threads of its own: `CALLS` at a time, `CALLS_PER_HOST` to one host."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(CALLS, thread_name_prefix="webhooks")
        self._lock = threading.Lock()
        self._calls: Counter[str] = Counter()
        self._closed = False

    def deliver(self, platform: Platform) -> int:
        """Begin as many calls as may run now, and return how many; each one that ends begins the next.

        Does not wait for them. No transaction is open during a call: a message in hand is only due again
        later, which is also what makes it survive this process.
        """
        with self._lock:
            limit = CALLS - self._calls.total()
            if self._closed or limit <= 0:
                return 0
            busy = [host for host, calls in self._calls.items() if calls >= CALLS_PER_HOST]
            messages = _claim(platform, limit, busy)
            for message in messages:
                self._calls[message.host] += 1
                self._pool.submit(self._work, platform, message)
            return len(messages)

    def close(self) -> None:
        """Begin no more calls and wait for those under way."""
        with self._lock:
            self._closed = True
        self._pool.shutdown()

    def _work(self, platform: Platform, message: Row[Any]) -> None:
        try:
            try:
                _send(platform, message)
            finally:
                with self._lock:
                    self._calls -= Counter([message.host])
            self.deliver(platform)
        except Exception:
            log.exception("webhook delivery interrupted", host=message.host)


def _claim(platform: Platform, limit: int, busy: list[str]) -> Sequence[Row[Any]]:
    """Take the longest due message of each host that is not `busy`, of at most `limit` hosts."""
    values = {"limit": limit, "busy": busy, "lease": LEASE_SECONDS, "lifetime": LIFETIME_SECONDS}
    with platform.engine.begin() as db:
        return db.execute(_CLAIM, values).all()


def _send(platform: Platform, message: Row[Any]) -> None:
    failure = "too old" if message.expired else _call(platform, message)
    final = message.expired or message.attempts > len(PAUSES)
    with platform.engine.begin() as db:
        if failure is None or final:
            db.execute(_DELETE, {"id": message.id})
        else:
            db.execute(_POSTPONE, {"id": message.id, "pause": PAUSES[message.attempts - 1]})
    if failure is not None and final:
        # Paths and queries often hold the receiver's secrets.
        log.info("webhook dropped", host=message.host, attempts=message.attempts, reason=failure)


def _call(platform: Platform, message: Row[Any]) -> str | None:
    """Why the call failed, or None. Receivers that answer with a redirect have been told, too."""
    url, body = message.url, message.body.encode()
    if url in NOTICES:
        url = getattr(platform.settings, url)
        if url is None:
            log.warning("no address to tell the operator", setting=message.url, message=message.body)
            return None
    try:
        status = outbound.post_json(platform.settings, url, body, seconds=CALL_SECONDS)
    except outbound.OutboundError as error:
        return str(error)
    return None if status < 400 else f"status {status}"
