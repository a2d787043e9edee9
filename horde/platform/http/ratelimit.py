"""Rate limits: fixed windows counted in Valkey, one round trip per request however many limits it has."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv6Network
from typing import Any, Literal, TypeVar

import redis
import structlog
from flask import Flask, current_app, request
from flask_limiter import Limiter, RequestLimit
from limits import RateLimitItem, WindowStats, parse_many
from werkzeug.exceptions import TooManyRequests
from werkzeug.routing import Rule

from horde.platform.http.requests import ANONYMOUS_KEY, api_key, user_address
from horde.platform.runtime import Platform

log = structlog.get_logger(__name__)

DEFAULT_LIMIT = "90/minute"

RELAXED_SECONDS = 24 * 3600
RELAXED_REFRESH_SECONDS = 600
RELAXED_CACHE_SECONDS = 10

OUTAGE_SECONDS = 5.0
"""How long requests go unlimited after a failure of Valkey, before it is asked again."""

COUNT_SCRIPT = """
local counted = {}
for i, key in ipairs(KEYS) do
  local count = redis.call('incr', key)
  if count == 1 then
    redis.call('expire', key, ARGV[2 * i])
  end
  counted[2 * i - 1] = count
  counted[2 * i] = redis.call('pttl', key)
  if count > tonumber(ARGV[2 * i - 1]) then
    break
  end
end
return counted
"""
"""Counts a request against KEYS in turn, up to the first one that it exceeds.

ARGV holds the amount and the seconds of each window. Returns the count and the remaining milliseconds of
each window looked at.
"""

Key = Literal["address", "path", "key", "worker"]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Window:
    """One limit of a route: an amount per period, and the amount for relaxed addresses."""

    item: RateLimitItem
    relaxed: RateLimitItem
    key: Key

    @property
    def seconds(self) -> int:
        """Length of the period."""
        return self.item.get_expiry()

    @property
    def has_relaxed(self) -> bool:
        """Whether being relaxed makes a difference."""
        return self.relaxed.amount != self.item.amount


def limited(limits: str, *, relaxed: str | None = None, key: Key = "address") -> Callable[[F], F]:
    """Limit a view, a resource or a method of one, in place of the default 90 per minute; may be stacked.

    `limits` holds one or several of them, such as `90/minute;2/second`; all are enforced. `relaxed` holds
    the same periods with the amounts for service addresses, relaxed addresses (see `relax`) and, when
    counting per key, the anonymous key, which many people share. `key` says what is counted together (IPv6
    addresses count as one whose first 64 bits are the same, as people can change the others at will):

    - `address`: calls of one user address to one route, whatever the ids in its path;
    - `path`: calls of one user address with one method to one full path;
    - `key`: calls with one API key with one method to one full path;
    - `worker`: calls with one API key from one user address to one route.
    """
    strict = parse_many(limits)
    loose = parse_many(relaxed) if relaxed else strict
    if [item.get_expiry() for item in strict] != [item.get_expiry() for item in loose]:
        raise ValueError(f"'{relaxed}' does not have the periods of '{limits}'")
    windows = [Window(item, other, key) for item, other in zip(strict, loose, strict=True)]

    def mark(view: F) -> F:
        marked: Any = view
        marked.rate_limits = (*getattr(view, "rate_limits", ()), *windows)
        return view

    return mark


def unlimited(view: F) -> F:
    """Take a view, a resource or a method of one out of rate limiting."""
    marked: Any = view
    marked.rate_limits = ()
    return view


def relax(platform: Platform, address: str) -> None:
    """Give `address` the relaxed limits for the next 24 hours, on all nodes.

    Cheap to call with every request: the store is written once in ten minutes.
    """

    def store() -> bool:
        platform.cache.set(f"relaxed:{address}", 1, ex=RELAXED_SECONDS)
        platform.local.drop(f"relaxed:{address}")
        return True

    try:
        platform.local.get(f"relax:{address}", RELAXED_REFRESH_SECONDS, store)
    except redis.RedisError:
        log.warning("relaxed rate limits not stored", address=address)


def is_relaxed(platform: Platform, address: str) -> bool:
    """Whether `address` has the relaxed limits; up to 10 seconds late where the news did not arrive."""
    if address in platform.settings.service_addresses:
        return True

    def load() -> bool:
        return bool(platform.cache.exists(f"relaxed:{address}"))

    return platform.local.get(f"relaxed:{address}", RELAXED_CACHE_SECONDS, load)


@lru_cache(maxsize=4096)
def customer(address: str) -> str:
    """Whose an address is: its own or, with IPv6, that of everybody in its /64."""
    return str(IPv6Network((address, 64), strict=False)) if ":" in address else address


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends the present request, as far as rate limits go."""

    platform: Platform
    rule: Rule
    address: str
    api_key: str

    def is_relaxed(self, key: Key) -> bool:
        if key == "key" and self.api_key == ANONYMOUS_KEY:
            return True
        return is_relaxed(self.platform, self.address)

    def counter(self, key: Key) -> str:
        """Name of the counter that this request belongs to; tells neither key nor address."""
        if key == "address":
            parts = [customer(self.address), self.rule.rule]
        elif key == "path":
            parts = [customer(self.address), request.method, request.path]
        elif key == "key":
            parts = [self.api_key, request.method, request.path]
        else:
            parts = [self.api_key, customer(self.address), self.rule.rule]
        text = "\n".join((key, *parts)).encode("utf-8", "surrogatepass")
        return blake2b(text, key=self.platform.secret[:64], digest_size=16).hexdigest()


class CountedLimit(RequestLimit):
    """A limit as it stands after the present request was counted."""

    def __init__(self, limiter: Limiter, item: RateLimitItem, count: int, reset: float) -> None:
        super().__init__(limiter, item, [], count > item.amount, False)
        self._window = WindowStats(reset, max(0, item.amount - count))

    @property
    def reset_at(self) -> int:
        """When the period ends, in Unix seconds; not in the past, where an answer took longer than that."""
        return max(super().reset_at, math.ceil(time.time()))


class RouteLimiter(Limiter):
    """Flask-Limiter with all limits of a request counted at once.

    Flask-Limiter asks the store once per limit and twice more for the headers. This one overrides the step
    that looks limits up and counts them; headers and the 429 error remain Flask-Limiter's. Requests are
    served without limits while Valkey does not answer.
    """

    def __init__(self, app: Flask, platform: Platform) -> None:
        self._platform = platform
        self._count = platform.cache.register_script(COUNT_SCRIPT)
        self._windows: dict[tuple[str, str], tuple[Window, ...]] = {}
        self._default = tuple(Window(item, item, "address") for item in parse_many(DEFAULT_LIMIT))
        self._retry_at = 0.0
        super().__init__(
            user_address,
            app=app,
            headers_enabled=True,
            retry_after="delta-seconds",
            storage_uri="redis://",
            storage_options={"connection_pool": platform.cache.connection_pool},  # type: ignore[dict-item]
        )

    def _check_request_limit(self, *_args: Any, **_kwargs: Any) -> None:
        rule, method = request.url_rule, request.method
        if rule is None or method == "OPTIONS" or time.monotonic() < self._retry_at:
            return
        windows = self._windows.get((rule.endpoint, method))
        if windows is None:
            windows = self._windows[rule.endpoint, method] = self._find_windows(rule.endpoint, method)
        if not windows:
            return
        try:
            self._enforce(windows, rule)
        except redis.RedisError as error:
            self._retry_at = time.monotonic() + OUTAGE_SECONDS
            log.warning(
                "rate limits suspended, Valkey does not answer", seconds=OUTAGE_SECONDS, error=str(error)
            )

    def _find_windows(self, endpoint: str, method: str) -> tuple[Window, ...]:
        """The limits of a route, shortest period first."""
        if endpoint.rpartition(".")[2] == "static":
            return ()
        view: Any = current_app.view_functions[endpoint]
        resource = getattr(view, "view_class", None)
        if resource is not None:
            view = getattr(resource, "get" if method == "HEAD" else method.lower(), None)
        windows: tuple[Window, ...] = getattr(
            view, "rate_limits", getattr(resource, "rate_limits", self._default)
        )
        return tuple(sorted(windows, key=lambda window: window.seconds))

    def _enforce(self, windows: tuple[Window, ...], rule: Rule) -> None:
        """Count the request; raise TooManyRequests when it exceeds one of `windows`."""
        caller = Caller(self._platform, rule, user_address(), api_key(required=False) or ANONYMOUS_KEY)
        items: list[RateLimitItem] = []
        keys: list[str] = []
        bounds: list[int] = []
        for window in windows:
            item = window.relaxed if window.has_relaxed and caller.is_relaxed(window.key) else window.item
            items.append(item)
            keys.append(f"limit:{window.item.amount}/{window.seconds}:{caller.counter(window.key)}")
            bounds += item.amount, window.seconds
        counted: list[int] = self._count(keys=keys, args=bounds)
        last = len(counted) // 2 - 1
        breached = counted[2 * last] > items[last].amount
        told = last if breached else 0
        self.context.view_rate_limit = CountedLimit(
            self, items[told], counted[2 * told], time.time() + counted[2 * told + 1] / 1000
        )
        if breached:
            raise TooManyRequests(description=str(items[last]))
