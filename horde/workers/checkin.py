"""A worker that pops is there, and offers what it says now."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import text, update

from horde.platform.errors import HordeError
from horde.platform.runtime import Platform
from horde.users import suspicions
from horde.users.rules import Reason
from horde.workers import heartbeats, rules
from horde.workers.heartbeats import present
from horde.workers.registration import Admission, admit, register
from horde.workers.rules import WorkerFacts
from horde.workers.service import FACTS_COLUMNS, facts_of, forget, forget_settings
from horde.workers.tables import Worker

NOTED_SECONDS = 3600.0
"""What speaks against a worker is noted no more often, by each process."""


def check_in(platform: Platform, admitted: Admission, settings: Mapping[str, Any]) -> WorkerFacts:
    """Note that a worker is there and what it offers now; register it if it is new.

    `settings` holds every name of `rules.SETTINGS`. Changed ones are stored at once; a mere sign of life, and
    what is only shown, goes to the cache and reaches the database some seconds later. Raises what `admit`
    does, if somebody has registered or removed a worker of this name in the meantime.
    """
    worker = _enter(platform, admitted, settings)
    if worker is None:
        again = admit(
            platform,
            admitted.owner,
            admitted.kind,
            admitted.name,
            admitted.bridge_agent,
            admitted.address,
        )
        worker = _enter(platform, again, settings)
    if worker is None:
        raise HordeError(
            f"The worker '{admitted.name}' is being registered or removed just now. Please try again.",
            "InternalServerError",
            status=503,
        )
    _note_suspicions(platform, admitted, worker)
    return worker


def _enter(platform: Platform, admitted: Admission, settings: Mapping[str, Any]) -> WorkerFacts | None:
    """None: what is known about the name does not hold any more."""
    worker = admitted.worker
    if worker is None:
        return register(platform, admitted, settings)
    stored = dict(settings, models=frozenset(settings["models"]), blacklist=tuple(settings["blacklist"]))
    if rules.changed_settings(worker, stored):
        return _store(platform, admitted, worker, settings)
    heartbeats.beat(platform, worker.id, admitted.address, settings["amount"])
    return worker


def _store(
    platform: Platform, admitted: Admission, worker: WorkerFacts, settings: Mapping[str, Any]
) -> WorkerFacts | None:
    now = {column: text(value) for column, value in present("now()").items()}
    changed = (
        update(Worker)
        .where(Worker.id == worker.id, Worker.owner_id == admitted.owner.id)
        .values(**settings, **now, ipaddr=admitted.address)
        .returning(*FACTS_COLUMNS)
    )
    with platform.engine.begin() as db:
        row = db.execute(changed).one_or_none()
    forget_settings(platform, admitted.name)
    return None if row is None else facts_of(platform, row)


def _note_suspicions(platform: Platform, admitted: Admission, worker: WorkerFacts) -> None:
    """Nothing speaks against workers of trusted accounts."""
    if admitted.owner.trusted:
        return
    if not admitted.safe_address:
        _note(platform, worker, Reason.UNSAFE_ADDRESS)
    if worker.kind == "image" and worker.max_pixels > rules.EXTREME_PIXELS:
        _note(platform, worker, Reason.EXTREME_SIZE)


def _note(platform: Platform, worker: WorkerFacts, reason: Reason) -> None:
    def report() -> bool:
        with platform.engine.begin() as db:
            paused = suspicions.report(db, worker.owner_id, reason, worker.id)
        if paused:
            forget(platform, worker.kind, worker.name)
        return True

    platform.local.get(f"noted:{worker.id}:{reason.value}", NOTED_SECONDS, report)
