"""What statistics are to know of an image job."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Row

from horde.image import asked, plans
from horde.model_reference.schemas import ImageModel
from horde.moderation.rules import SEPARATOR

SAME = ("width", "height", "cfg_scale", "karras", "hires_fix", "tiling")
IF_GIVEN = ("control_type", "post_processing", "workflow")


def details(job: Row[Any], models: Mapping[str, ImageModel]) -> dict[str, Any]:
    """What was asked for, with the settings that the job's model got; of the prompt only its length."""
    payload = _payload(job, models)
    prompt = payload["prompt"]
    return {
        **{name: payload[name] for name in SAME},
        **{name: payload[name] for name in IF_GIVEN if payload.get(name)},
        "steps": payload["ddim_steps"],
        "sampler": payload["sampler_name"],
        "prompt_length": len(prompt),
        "negative_prompt": SEPARATOR in prompt,
        "img2img": job.options["source_image"],
        "nsfw": job.options["nsfw"],
        "loras": [lora["name"] for lora in payload.get("loras", ())],
        "tis": [ti["name"] for ti in payload.get("tis", ())],
    }


def _payload(job: Row[Any], models: Mapping[str, ImageModel]) -> dict[str, Any]:
    variant = job.options.get("variants", {}).get(job.model)
    if variant is not None:
        return {**job.payload, **variant["payload"]}
    if job.models:
        return dict(job.payload)
    wanted = asked.read(job.payload, job.options, r2=job.r2)
    planned = plans.plan(wanted, job.model, models)
    return {**job.payload, **plans.changes(wanted.settings, planned.asked.settings)}
