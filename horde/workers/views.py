"""How a worker is shown."""

from datetime import datetime
from typing import Any

from horde.workers.rules import online
from horde.workers.schemas import WorkerDetails, WorkerKudosDetails
from horde.workers.software import Software

MEGA = 1_000_000


def describe(worker: Any, software: Software, now: datetime) -> WorkerDetails:
    """What everybody may see of `worker`, a row of its columns and its owner's standing."""
    capabilities = software.capabilities
    image: dict[str, Any] = {}
    if worker.kind == "image":
        image = {
            "max_pixels": worker.max_pixels,
            "megapixelsteps_generated": int(worker.contributions / MEGA),
            "img2img": worker.allow_img2img and "img2img" in capabilities,
            "painting": worker.allow_painting and "inpainting" in capabilities,
            "post_processing": worker.allow_post_processing,
            "lora": worker.allow_lora,
            "controlnet": worker.allow_controlnet,
            "sdxl_controlnet": worker.allow_sdxl_controlnet,
        }
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
        performance=f"{worker.speed / MEGA:.1f} megapixelsteps per second",
        threads=worker.threads,
        uptime=worker.uptime,
        maintenance_mode=worker.maintenance,
        info=worker.info,
        nsfw=worker.nsfw,
        trusted=worker.owner_trusted,
        flagged=worker.owner_flagged,
        bridge_agent=worker.bridge_agent,
        models=list(worker.models),
        owner=worker.owner_alias if worker.owner_public else None,
        **image,
    )
