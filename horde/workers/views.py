"""How a worker is shown, depending on who looks."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from horde.generation.post_processors import POST_PROCESSORS
from horde.users.views import Privilege
from horde.workers.message_schemas import WorkerMessage
from horde.workers.rules import online
from horde.workers.schemas import TeamDetailsLite, WorkerDetails, WorkerKudosDetails
from horde.workers.software import Software

MEGA = 1_000_000
NO_DELIVERIES = "No requests fulfilled yet"


def describe(
    worker: Any, software: Software, messages: Sequence[WorkerMessage], privilege: Privilege, now: datetime
) -> WorkerDetails:
    """What is shown of `worker`, a row of its columns, its owner's standing and its team.

    `messages` are those to this worker that have not expired.
    """
    shown: dict[str, Any] = _abilities(worker, software)
    if privilege >= Privilege.OWNER or worker.owner_public:
        shown |= {"owner": worker.owner_alias, "messages": list(messages)}
    if privilege >= Privilege.OWNER:
        shown |= {"ipaddr": worker.ipaddr or None, "contact": worker.owner_contact or None}
    if privilege >= Privilege.MODERATOR:
        shown |= {"paused": worker.paused, "suspicious": worker.suspicions}
    return WorkerDetails(
        type=worker.kind,
        name=worker.name,
        id=str(worker.id),
        online=online(worker.last_seen, now),
        requests_fulfilled=worker.fulfilments,
        uncompleted_jobs=worker.uncompleted_jobs,
        kudos_rewards=float(worker.kudos_generated + worker.kudos_uptime),
        kudos_details=WorkerKudosDetails(
            generated=float(worker.kudos_generated), uptime=int(worker.kudos_uptime)
        ),
        performance=_performance(worker),
        threads=worker.threads,
        uptime=worker.uptime,
        maintenance_mode=worker.maintenance,
        info=worker.info,
        trusted=worker.owner_trusted,
        flagged=worker.owner_flagged,
        team=TeamDetailsLite(name=worker.team_name, id=worker.team_id and str(worker.team_id)),
        bridge_agent=worker.bridge_agent,
        **shown,
    )


def _performance(worker: Any) -> str:
    if worker.kind == "image":
        return f"{worker.speed / MEGA:.1f} megapixelsteps per second"
    if not worker.fulfilments:
        return NO_DELIVERIES
    unit = "tokens per second" if worker.kind == "text" else "seconds per form"
    return f"{worker.speed:.1f} {unit}"


def _abilities(worker: Any, software: Software) -> dict[str, Any]:
    """What its type of worker can do, by settings and software."""
    if worker.kind == "interrogation":
        return {"forms": list(worker.models)}
    served = {"models": list(worker.models), "nsfw": worker.nsfw}
    if worker.kind == "text":
        return served | {"tokens_generated": int(worker.contributions)}
    capabilities = software.capabilities
    post_processes = worker.allow_post_processing and "post-processing" in capabilities
    return served | {
        "max_pixels": worker.max_pixels,
        "megapixelsteps_generated": int(worker.contributions / MEGA),
        "img2img": worker.allow_img2img and "img2img" in capabilities,
        "painting": worker.allow_painting and "inpainting" in capabilities,
        "post_processing": worker.allow_post_processing,
        "post_processors": sorted(POST_PROCESSORS & capabilities) if post_processes else [],
        "samplers": sorted(software.samplers_without_karras),
        "max_batch": worker.amount,
        "lora": worker.allow_lora,
        "controlnet": worker.allow_controlnet,
        "sdxl_controlnet": worker.allow_sdxl_controlnet,
    }
