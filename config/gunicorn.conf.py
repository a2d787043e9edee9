"""How gunicorn serves the application; the numbers come from the settings."""

import gc
import multiprocessing
import os
import resource
import sys
from typing import Any

from horde.settings import load_settings

settings = load_settings()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
# Thousands of workers may wait for a job at the same time (docs/decisions/0004-driver.md).
worker_class = "gevent"
workers = settings.web_workers
# Workers poll every few seconds; reconnecting each time would cost more than the poll.
keepalive = 75
worker_connections = 4000
timeout = 60
graceful_timeout = 30

limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 8190
forwarded_allow_ips = ",".join(sorted(settings.trusted_proxies))

# The application logs for itself; of gunicorn only trouble is of interest.
loglevel = "warning"
control_socket_disable = True
MEMORY_FOLDER = "/dev/shm"  # noqa: S108 - gunicorn makes a private file there
if os.path.isdir(MEMORY_FOLDER):
    # A slow disk must not make a healthy worker look dead.
    worker_tmp_dir = MEMORY_FOLDER


def _check_files() -> None:
    from horde.app import CannotStart, check_files

    try:
        check_files(settings)
    except CannotStart as error:
        sys.exit(f"The server cannot start. {error}")


def on_starting(_server: Any) -> None:
    """Look at the operator's files, and allow as many open files as the connections need."""
    # In a process of its own: here nothing of the application may be loaded before gevent has changed Python.
    check = multiprocessing.get_context("fork").Process(target=_check_files)
    check.start()
    check.join()
    if check.exitcode:
        sys.exit(check.exitcode)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = worker_connections + 512
    if soft != resource.RLIM_INFINITY and soft < wanted:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def post_worker_init(worker: Any) -> None:
    """Start the application's periodic work.

    What was loaded so far stays for good, so the garbage collector need not look at it again and again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    extensions = worker.wsgi.extensions
    if "horde_runner" in extensions:
        extensions["horde_runner"].start()
    if "horde_wakeups" in extensions:
        extensions["horde_wakeups"].start(lambda: not worker.alive)


def worker_exit(_server: Any, worker: Any) -> None:
    """Stop the periodic work that `post_worker_init` started."""
    extensions = getattr(getattr(worker, "wsgi", None), "extensions", {})
    if "horde_runner" in extensions:
        extensions["horde_runner"].stop()
    if "horde_wakeups" in extensions:
        extensions["horde_wakeups"].close()
    if "horde_webhooks" in extensions:
        extensions["horde_webhooks"].close()
