"""Workers: finding them and who is online."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import select, text

from horde.model_reference.service import image_models
from horde.platform.runtime import Platform
from horde.workers import priorities, rules
from horde.workers.rules import WorkerFacts
from horde.workers.software import SoftwareTable, load_software
from horde.workers.tables import Worker

FACTS_SECONDS = 30.0
ONLINE_SECONDS = 5.0
LISTED_KEY = "workers"
"""Under which `details` keeps all that are online,"""
TEAMS_KEY = "teams"
"""and `teams` all teams."""

FACTS_COLUMNS = (
    *Worker.__table__.columns,
    text("""EXISTS (
        SELECT FROM user_roles WHERE user_id = workers.owner_id AND role = 'trusted'
    ) AS owner_trusted"""),
)
"""What `facts_of` needs of a row of `workers`."""
_FACTS = select(*FACTS_COLUMNS)


def software_table(platform: Platform) -> SoftwareTable:
    """What the known worker programs can do, as configured."""
    path = platform.settings.config_path(platform.settings.worker_software)
    return platform.local.get("worker_software", 3600, lambda: load_software(path))


def facts_of(platform: Platform, row: Any) -> WorkerFacts:
    """The facts in a row of `FACTS_COLUMNS`."""
    known = image_models(platform).models if row.kind == "image" else {}
    painters = {name in known and known[name].inpainting for name in row.models}
    return WorkerFacts(
        id=row.id,
        kind=row.kind,
        owner_id=row.owner_id,
        owner_trusted=row.owner_trusted,
        name=row.name,
        bridge_agent=row.bridge_agent,
        software=software_table(platform).capabilities(row.bridge_agent),
        threads=row.threads,
        models=frozenset(row.models),
        blacklist=tuple(row.blacklist),
        max_pixels=row.max_pixels,
        nsfw=row.nsfw,
        allow_img2img=row.allow_img2img,
        allow_painting=row.allow_painting,
        allow_unsafe_ipaddr=row.allow_unsafe_ipaddr,
        allow_post_processing=row.allow_post_processing,
        allow_controlnet=row.allow_controlnet,
        allow_sdxl_controlnet=row.allow_sdxl_controlnet,
        allow_lora=row.allow_lora,
        limit_max_steps=row.limit_max_steps,
        extra_slow_worker=row.extra_slow_worker,
        maintenance=row.maintenance,
        maintenance_message=row.maintenance_message,
        paused=row.paused,
        speed=row.speed,
        hosts_painters=True in painters,
        hosts_others=False in painters,
    )


def find(platform: Platform, name: str) -> WorkerFacts | None:
    """The worker of exactly this name, whatever its kind, as of the last few seconds; None: there is none."""

    def load() -> WorkerFacts | None:
        with platform.read() as db:
            row = db.execute(_FACTS.where(Worker.name == name)).one_or_none()
        return None if row is None else facts_of(platform, row)

    return platform.local.get(f"worker:{name}", FACTS_SECONDS, load)


def forget_settings(platform: Platform, name: str) -> None:
    """Drop what is kept of one worker, everywhere, after its settings changed.

    Those who look at all workers hear of it when their time has come: a worker may change its settings at
    each pop, and finding out about everybody anew each time would be dear.
    """
    platform.local.drop(f"worker:{name}")


def forget(platform: Platform, kind: str, *names: str) -> None:
    """Drop what is kept of workers of a kind, everywhere. Call it after one was changed, by all its names."""
    platform.local.drop(*(f"worker:{name}" for name in names), f"online:{kind}", LISTED_KEY)


def online_workers(platform: Platform, kind: str) -> Sequence[WorkerFacts]:
    """All workers of a kind that popped within the last five minutes, as of a few seconds ago."""

    def load() -> list[WorkerFacts]:
        with platform.read() as db:
            rows = db.execute(
                _FACTS.where(
                    Worker.kind == kind,
                    Worker.last_seen > text(f"now() - interval '{rules.STALE_SECONDS} seconds'"),
                )
            ).all()
        found = [facts_of(platform, row) for row in rows]
        return priorities.complete(platform, found) if platform.settings.require_matched_targeting else found

    return platform.local.get(f"online:{kind}", ONLINE_SECONDS, load, bridge=True)


def existing(platform: Platform, ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that are workers."""
    with platform.read() as db:
        return set(db.execute(select(Worker.id).where(Worker.id.in_(ids))).scalars())
