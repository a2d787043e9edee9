"""Delivered images as requesters see them."""

import base64
from typing import Any
from uuid import UUID

from horde.platform.runtime import Platform


def image_key(job_id: UUID) -> str:
    """Name of a job's picture in the object store."""
    return f"{job_id}.webp"


def describe_result(platform: Platform, job: Any, *, r2: bool) -> dict[str, Any]:
    """The fields of `GenerationStable` of a delivered job: as a link, or with `r2` false in base64."""
    return {
        "id": str(job.id),
        "img": platform.store.download_url(image_key(job.id)) if r2 else stored_base64(platform, job.id),
        "seed": str(job.seed),
        "model": job.model,
        "worker_id": str(job.worker_id),
        "worker_name": job.worker_name,
        "censored": job.state != "ok",
        "gen_metadata": job.metadata or [],
        "state": job.state,
    }


def stored_base64(platform: Platform, job_id: UUID) -> str:
    """A job's picture as base64, or "N/A" when the store does not have it (any more)."""
    picture = platform.store.get(image_key(job_id))
    return "N/A" if picture is None else base64.b64encode(picture).decode()
