"""What decides, of a request that accepts every model, which models would do for it.

The model is chosen when a worker takes the request. What matters then is written down when it is queued, in
so few words that many requests share the same: so searching and counting need not read whole requests.
"""

from functools import lru_cache

import orjson

from horde.image.asked import Asked
from horde.image.matching import ImageFacts
from horde.image.requirements import Settings
from kudos_model.features import JobFeatures, accurate_steps

REMEMBERED = 4096


def write(asked: Asked) -> str:
    """What matters of a request, as text; equal for requests that the same models would do for."""
    settings, facts = asked.settings, asked.facts
    exact = asked.policy == "reject"
    return orjson.dumps(
        [
            asked.policy,
            settings.sampler,
            settings.karras,
            settings.steps,
            settings.clip_skip if exact else min(settings.clip_skip, 2),
            settings.cfg_scale if exact else 0.0,
            facts.source_image,
            facts.source_processing,
            facts.control_type,
            facts.workflow,
            facts.hires_fix,
            facts.transparent,
        ]
    ).decode()


@lru_cache(maxsize=REMEMBERED)
def read(text: str) -> Asked:
    """A request of which `text` was written, with nothing in it that holds whatever the model is."""
    values = orjson.loads(text)
    policy, sampler, karras, steps, clip_skip, cfg_scale = values[:6]
    source_image, source_processing, control_type, workflow, hires_fix, transparent = values[6:]
    settings = Settings(steps, cfg_scale, sampler, karras, clip_skip)
    facts = ImageFacts(
        nsfw=False,
        trusted_workers=False,
        slow_workers=True,
        extra_slow_workers=True,
        r2=False,
        unsafe_ip=False,
        trusted=True,
        source_image=source_image,
        source_processing=source_processing,
        extra_source_images=False,
        sampler=sampler,
        karras=karras,
        accurate_steps=accurate_steps(sampler, steps),
        hires_fix=hires_fix,
        tiling=False,
        transparent=transparent,
        clip_skip=clip_skip,
        post_processing=(),
        control_type=control_type,
        image_is_control=False,
        return_control_map=False,
        workflow=workflow,
        loras=False,
        lora_versions=False,
        tis=False,
    )
    return Asked(facts, _ANYTHING, settings, policy, loras=(), workflow=workflow, supervised=False)


_ANYTHING = JobFeatures(
    width=512,
    height=512,
    steps=30,
    sampler="k_euler_a",
    cfg_scale=5.0,
    karras=True,
    hires_fix=False,
    source_image=False,
    source_mask=False,
    source_processing="img2img",
    denoising_strength=None,
    control_type=None,
    post_processing=(),
    lora_count=0,
    has_tis=False,
)
"""Stands for what only the price goes by."""
