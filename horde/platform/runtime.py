"""The parts that a running server is made of, handed to every service function."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import redis
from flask import current_app
from sqlalchemy import Connection, Engine

from horde.platform.local_cache import LocalCache
from horde.platform.objectstore.store import ObjectStore
from horde.settings import Settings


def _nothing_profane(_platform: "Platform", _text: str) -> bool:
    return False


def _no_proxies(_platform: "Platform", _passkey: str) -> int | None:
    return None


@dataclass(frozen=True, slots=True)
class Platform:
    """Database, cache and object store of one process."""

    settings: Settings
    engine: Engine
    """For transactions: `with platform.engine.begin() as db`."""
    reader: Engine
    cache: "redis.Redis"
    local: LocalCache
    store: ObjectStore
    secret: bytes
    """Key of every hash and signature this horde makes."""
    proxy_user: Callable[["Platform", str], int | None] = _no_proxies
    """The account of the service that a proxy passkey belongs to; None: nobody's."""
    is_profane: Callable[["Platform", str], bool] = _nothing_profane
    """Whether a name or description holds a word that the operator does not want there."""

    def read(self) -> Connection:
        """A connection for single reading statements, without the cost of a transaction around each."""
        return self.reader.connect()

    def close(self) -> None:
        """Give all connections back."""
        self.engine.dispose()
        self.reader.dispose()
        self.cache.close()


def current_platform() -> Platform:
    """The platform of the application that handles the present HTTP request."""
    return cast(Platform, current_app.extensions["horde"])
