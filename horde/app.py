"""The composition root: settings become a platform, a platform becomes an application."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import redis
from flask import Flask
from redis.backoff import NoBackoff
from redis.retry import Retry

from horde.generation import snapshot, sweep, wakeups, webhooks
from horde.image import rating_routes, style_routes
from horde.image import routes as image_routes
from horde.kudos import pricing, reconciliation, shared_keys
from horde.kudos import service as ledger
from horde.model_reference import service as references
from horde.moderation import problems
from horde.moderation import routes as moderation_routes
from horde.moderation import service as moderation
from horde.platform import logs
from horde.platform.database import make_engine
from horde.platform.http import init_http
from horde.platform.local_cache import LocalCache
from horde.platform.objectstore import make_store
from horde.platform.objectstore.local import LocalStore
from horde.platform.objectstore.routes import object_routes
from horde.platform.periodic import Runner, Task
from horde.platform.runtime import Platform
from horde.settings import Settings, load_settings
from horde.status import documents, news, statistics
from horde.status import routes as status_routes
from horde.styles import collection_routes, example_routes, using
from horde.styles import routes as text_style_routes
from horde.users import (
    education_routes,
    kudos_routes,
    monthly,
    passkeys,
    shared_key_routes,
    supporters,
    trust,
)
from horde.users import routes as user_routes
from horde.web import pages
from horde.workers import conduct, heartbeats, message_routes, messages, team_routes
from horde.workers import routes as worker_routes
from kudos_model.estimator import WrongNetwork

AREAS = (
    image_routes.area,
    rating_routes.area,
    style_routes.area,
    example_routes.area,
    text_style_routes.area,
    collection_routes.area,
    moderation_routes.area,
    status_routes.area,
    shared_key_routes.area,
    user_routes.area,
    education_routes.area,
    kudos_routes.area,
    message_routes.area,
    worker_routes.area,
    team_routes.area,
)

TASKS = (
    Task("places in the queue", 1, lambda platform: snapshot.publish_places(platform, "image")),
    Task("groups in the queue", 2, lambda platform: snapshot.publish_groups(platform, "image")),
    Task("kudos ledger", 3, ledger.fold_all),
    Task("records", 5, sweep.fold_records),
    Task("uses of styles", 5, using.fold_uses),
    Task("dropped jobs", 5, conduct.judge_dropped_jobs),
    Task("heartbeats", 5, heartbeats.fold_heartbeats),
    Task("reservations", 5, sweep.release_reservations),
    Task("shared keys", 5, shared_keys.forget_spending),
    Task("overdue jobs", 10, sweep.abort_overdue_jobs),
    Task("worker speeds", 30, sweep.measure_speeds),
    Task("trust", 60, trust.review),
    Task("expired requests", 60, sweep.expire_requests),
    Task("monthly kudos", 3600, monthly.pay),
    Task("supporters", 1800, supporters.refresh, slow=True),
    Task("proof of the books", 600, reconciliation.check_nightly, slow=True),
    Task("stored images", 300, sweep.delete_old_pictures),
    Task("statistics", 300, statistics.fold_totals),
    Task("empty lanes", 600, sweep.close_empty_lanes),
    Task("model references", 60, references.refresh),
    Task("expired messages", 3600, messages.purge),
    Task("problem jobs", 3600, problems.purge),
)


MOST_CACHE_CONNECTIONS = 64
"""Of one process."""


class CannotStart(Exception):
    """Something has to be put right before the server can start; the message says what and where."""


def check_files(settings: Settings) -> None:
    """Raise `CannotStart` if a file is broken that only some call would need: nobody shall find out by that.

    A server that runs does not end because of such a file, and neither does it replace its processes in vain.
    """
    try:
        pricing.current()
        documents.check(settings)
        news.load_news(settings.config_path(settings.news))
    except (WrongNetwork, documents.DocumentError, news.NewsError) as error:
        raise CannotStart(str(error)) from error


def create_app(settings: Settings | None = None) -> Flask:
    """The WSGI application of one process. `settings` must name a database and a cache."""
    settings = settings or load_settings()
    logs.configure(settings)
    app = Flask(__name__, static_folder=None)
    pricing.current()  # a network that does not fit is found before anything is served
    documents.remember(settings)
    platform = make_platform(settings)
    app.extensions["horde"] = platform
    sender = webhooks.Sender()
    app.extensions["horde_webhooks"] = sender
    app.extensions["horde_wakeups"] = wakeups.Wakeups(platform)
    app.extensions["horde_runner"] = Runner(platform, [*TASKS, Task("webhooks", 1, sender.deliver)])
    status_routes.BusyCalls(app)
    init_http(app, platform, AREAS)
    app.register_blueprint(status_routes.site)
    app.register_blueprint(pages.site)
    if isinstance(platform.store, LocalStore):
        app.register_blueprint(object_routes(platform.store))
    return app


def make_platform(settings: Settings) -> Platform:
    """Connect to the services that `settings` name. Raises `ValueError` when one is not named."""
    if not settings.database_url or not settings.redis_url:
        raise ValueError(
            "DATABASE_URL and REDIS_URL must be set; `horde serve` starts embedded services instead."
        )
    secret = _secret(settings)
    pool_size = settings.database_pool_size
    # Calls wait for each other's connections, rather than taking Valkey for dead when many come at once.
    connections = redis.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=MOST_CACHE_CONNECTIONS,
        timeout=10,
        socket_timeout=2,
        socket_connect_timeout=1,
        retry=Retry(NoBackoff(), 1),
    )
    cache = redis.Redis.from_pool(connections)
    return Platform(
        settings=settings,
        engine=make_engine(settings.database_url, pool_size),
        reader=make_engine(settings.database_url, pool_size, autocommit=True),
        cache=cache,
        local=LocalCache(cache),
        store=make_store(settings, secret),
        secret=secret,
        proxy_user=passkeys.proxy_user,
        is_profane=moderation.is_profane,
    )


@contextmanager
def open_platform(settings: Settings) -> Iterator[Platform]:
    """A platform for a command, closed afterwards."""
    platform = make_platform(settings)
    try:
        yield platform
    finally:
        platform.close()


def _secret(settings: Settings) -> bytes:
    """The configured secret, or one generated on first use and kept in `var_dir`, readable by us alone."""
    if settings.secret_key is not None:
        return settings.secret_key.get_secret_value().encode()
    path = settings.var_dir / "secret.key"
    settings.var_dir.mkdir(parents=True, exist_ok=True)
    _create_once(path, secrets.token_urlsafe(32))
    return path.read_bytes().strip()


def _create_once(path: Path, content: str) -> None:
    """Write `path` unless it exists; several processes may try, and all then read the same."""
    if path.exists():
        return
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(content + "\n")
    try:
        os.link(fresh, path)
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
