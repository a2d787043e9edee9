"""What to tell those whose requests nobody can serve."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from horde.generation.rules import SMALLEST_SIZE
from horde.image.asked import Asked
from horde.image.plans import Plan
from horde.image.requirements import SAMPLERS
from horde.workers.rules import WorkerFacts
from kudos_model.features import ADAPTIVE_SAMPLER, accurate_steps

MOST_MODELS = 3
"""Models that are suggested at once."""

REASONS = {
    "models": "its models",
    "max_pixels": "its size",
    "nsfw": "that its result may be unsafe",
    "untrusted": "that it wants trusted owners",
    "unsafe_ip": "the address that it came from",
    "performance": "the speed that it asks for or allows",
    "img2img": "its source image",
    "painting": "painting into a picture",
    "lora": "LoRAs",
    "post-processing": "post-processing",
    "controlnet": "ControlNets and transparency",
    "step_count": "its steps",
    "bridge_version": "software that is too old for it",
    "worker_id": "its list of workers",
    "maintenance": "maintenance",
    "blacklist": "words of its prompt",
}
"""What keeps workers from a request, by reason."""

LEFT_OUT = None
FIXES: dict[str, tuple[Any, str]] = {
    "nsfw": (False, "set nsfw to false"),
    "trusted_workers": (False, "set trusted_workers to false"),
    "slow_workers": (True, "allow slow_workers"),
    "extra_slow_workers": (True, "allow extra_slow_workers"),
    "workers": (LEFT_OUT, "leave workers out"),
    "r2": (False, "set r2 to false"),
    "source_image": (LEFT_OUT, "leave source_image out"),
    "extra_source_images": (LEFT_OUT, "leave extra_source_images out"),
    "source_mask": (LEFT_OUT, "leave source_mask out"),
    "source_processing": ("img2img", "set source_processing to img2img"),
    "prompt": (LEFT_OUT, "word the prompt differently"),
    "params.loras": (LEFT_OUT, "leave params.loras out"),
    "params.tis": (LEFT_OUT, "leave params.tis out"),
    "params.post_processing": (LEFT_OUT, "leave params.post_processing out"),
    "params.control_type": (LEFT_OUT, "leave params.control_type out"),
    "params.workflow": (LEFT_OUT, "leave params.workflow out"),
    "params.extra_texts": (LEFT_OUT, "leave params.extra_texts out"),
    "params.transparent": (False, "set params.transparent to false"),
    "params.image_is_control": (False, "set params.image_is_control to false"),
    "params.return_control_map": (False, "set params.return_control_map to false"),
    "params.hires_fix": (False, "set params.hires_fix to false"),
    "params.tiling": (False, "set params.tiling to false"),
    "params.clip_skip": (1, "set params.clip_skip to 1"),
}
"""By field: what to send instead, and the same in words."""


@dataclass(frozen=True, slots=True)
class Obstacles:
    """Why one worker cannot serve a request."""

    worker: WorkerFacts
    reasons: frozenset[str]
    """Keys of `REASONS`."""
    fields: frozenset[str | None]
    """What of the request would have to change; None stands for what its sender cannot change."""
    plans: tuple[Plan, ...]
    """What would run with each model of this worker that asks for no other changes than those."""


def explanation(asked: Asked, found: Sequence[Obstacles]) -> dict[str, Any]:
    """The fields of `RequestExplanation`: what is in everybody's way, and the smallest way out."""
    counts = Counter(reason for each in found for reason in each.reasons)
    base = {"workers": len(found), "reasons": dict(counts.most_common()), "changes": [], "would_serve": 0}
    if not found:
        return base | {
            "message": "No image worker is online at present. The request waits in case one comes."
        }
    told = ", ".join(f"{REASONS[reason]} ({count})" for reason, count in counts.most_common())
    message = f"{_workers(len(found))} online, but kept from it by {told}."
    way = _smallest(found)
    if way is None:
        return base | {"message": f"{message} No small change to it would help; it waits for others."}
    changes, texts, able = _changes(asked, way)
    advice = f"To have it served, {' and '.join(texts)}: then {_workers(able, 'could', 'could')} take it."
    return base | {"message": f"{message} {advice}", "changes": changes, "would_serve": able}


def unexplained(online: int) -> dict[str, Any]:
    """The same where something went wrong."""
    message = f"{_workers(online)} online. Why none can take this request could not be found out."
    return {"workers": online, "reasons": {}, "message": message, "changes": [], "would_serve": 0}


def _workers(count: int, singular: str = "is", plural: str = "are") -> str:
    return f"1 worker {singular}" if count == 1 else f"{count} workers {plural}"


def _smallest(found: Sequence[Obstacles]) -> list[Obstacles] | None:
    """The workers that the fewest changes would suffice for; among equal ones, the most workers."""
    groups: dict[frozenset[str | None], list[Obstacles]] = {}
    for each in found:
        fields = _with_implied(each)
        if fields and None not in fields:
            groups.setdefault(fields, []).append(replace(each, fields=fields))
    if not groups:
        return None
    return min(groups.values(), key=lambda group: (len(group[0].fields), -len(group)))


def _with_implied(each: Obstacles) -> frozenset[str | None]:
    """What has to change, with what makes no sense any more then."""
    if not each.plans:
        return each.fields
    asked = each.plans[0].asked
    fields = set(each.fields)
    if "source_image" in fields:
        implied = {
            "source_mask": asked.features.source_mask,
            "params.control_type": asked.facts.control_type,
            "extra_source_images": asked.facts.extra_source_images,
            "source_processing": asked.facts.source_processing != "img2img",
        }
        fields |= {field for field, present in implied.items() if present}
    if "params.workflow" in fields:
        fields.add("params.extra_texts")
    if "params.steps" in fields and asked.settings.sampler == ADAPTIVE_SAMPLER:
        fields.add("params.sampler_name")
    if "params.sampler_name" in fields and not _samplers(asked, each.worker):
        fields.add(None)
    if "params.width" in fields and each.worker.max_pixels < SMALLEST_SIZE:
        fields.add(None)
    return frozenset(fields)


def _changes(asked: Asked, way: Sequence[Obstacles]) -> tuple[list[dict[str, Any]], list[str], int]:
    """What to change, the same in words, and how many of the workers could serve the request then."""
    fields = way[0].fields
    serving = list(way)
    changes: list[dict[str, Any]] = []
    texts: list[str] = []
    if "models" in fields:
        names, serving = _models(serving)
        changes.append({"field": "models", "value": names})
        texts.append(f"use the model {' or '.join(names)}")
    if "params.width" in fields:
        width, height, serving = _size(asked, serving)
        changes += [{"field": "params.width", "value": width}, {"field": "params.height", "value": height}]
        texts.append(f"ask for {width}x{height} pixels")
    sampler = None
    if "params.sampler_name" in fields:
        sampler, serving = _sampler(asked, serving)
        changes.append({"field": "params.sampler_name", "value": sampler})
        texts.append(f"use the sampler {sampler}")
    costlier = sampler and accurate_steps(sampler, asked.settings.steps) > asked.facts.accurate_steps
    if "params.steps" in fields or costlier:
        steps = _steps(asked, sampler, serving)
        changes.append({"field": "params.steps", "value": steps})
        texts.append(f"ask for {steps} steps")
    for field in sorted(field for field in fields if field in FIXES):
        value, text = FIXES[field]
        changes.append({"field": field} if value is LEFT_OUT else {"field": field, "value": value})
        texts.append(text)
    return changes, texts, len(serving)


def _models(way: Sequence[Obstacles]) -> tuple[list[str], list[Obstacles]]:
    offered = Counter(plan.model for each in way for plan in each.plans)
    names = sorted(offered, key=lambda name: (-offered[name], name))[:MOST_MODELS]
    return names, [each for each in way if any(plan.model in names for plan in each.plans)]


def _size(asked: Asked, way: Sequence[Obstacles]) -> tuple[int, int, list[Obstacles]]:
    """The largest size of about the same shape that one of the workers makes."""
    most = max(each.worker.max_pixels for each in way)
    shrink = math.sqrt(most / asked.size)
    width, height = (
        max(64, int(length * shrink) // 64 * 64) for length in (asked.features.width, asked.features.height)
    )
    while width * height > most and max(width, height) > 64:
        if width >= height:
            width -= 64
        else:
            height -= 64
    return width, height, [each for each in way if each.worker.max_pixels >= width * height]


def usual_steps(plan: Plan, sampler: str | None = None) -> int:
    """The most steps that workers which limit steps take with a model, with its sampler or another one."""
    return int(plan.facts.usual_steps) // accurate_steps(sampler or plan.asked.settings.sampler, 1)


def _steps(asked: Asked, sampler: str | None, way: Sequence[Obstacles]) -> int:
    """As many steps as all of the workers take, or no more work than was asked for."""
    if "params.steps" in way[0].fields:
        most = min(usual_steps(plan, sampler) for each in way for plan in each.plans)
    else:
        most = asked.facts.accurate_steps // accurate_steps(sampler or asked.settings.sampler, 1)
    return max(1, most)


def _sampler(asked: Asked, way: Sequence[Obstacles]) -> tuple[str, list[Obstacles]]:
    """The sampler that the most of the workers know, and those workers."""
    counts = Counter(name for each in way for name in _samplers(asked, each.worker))
    name = max(counts, key=lambda name: (counts[name], name == "k_euler_a", name))
    return name, [each for each in way if name in _samplers(asked, each.worker)]


def _samplers(asked: Asked, worker: WorkerFacts) -> set[str]:
    """What a worker knows of the samplers whose steps can be chosen."""
    software = worker.software
    known = software.samplers_with_karras if asked.settings.karras else software.samplers_without_karras
    return set(known) & set(SAMPLERS) - {ADAPTIVE_SAMPLER}
