"""The models that can be asked for at present, and what waits for each."""

from typing import Any, Literal
from urllib.parse import unquote

from horde.model_reference.rules import KNOWN_BASELINES, find_text_model
from horde.model_reference.service import image_models, text_models
from horde.platform.runtime import Platform
from horde.status import rules
from horde.status.standing import Amount, KindStanding, standing

ModelKind = Literal["image", "text"]
MODEL_KINDS: tuple[ModelKind, ...] = ("image", "text")

Row = dict[str, Any]
"""The fields of `ActiveModel`."""


def active_models(
    platform: Platform, kind: str, *, min_count: int | None, max_count: int | None, model_state: str
) -> list[Row]:
    """The models of a kind that somebody serves, and the known ones that somebody waits for, by name.

    `min_count` and `max_count` bound the threads that serve them. A `kind` without models has none.
    Raises `BadRequest` (400) for an unknown `model_state`.
    """
    state = rules.model_state(model_state)
    return [
        row
        for row in _listed(platform, kind)
        if (min_count is None or row["count"] >= min_count)
        and (max_count is None or row["count"] <= max_count)
        and rules.in_state(state, known=is_known(platform, kind, row["name"]))
    ]


def active_model(platform: Platform, name: str) -> list[Row]:
    """The model of this name as `active_models` lists it, in a list; a known one also if nothing is on.

    Of an image and a text model of one name the text model is meant if only that one is served. `name` may
    still be percent-encoded, as released servers want it.
    """
    return _find(platform, name) or _find(platform, unquote(name))


def is_known(platform: Platform, kind: str, name: str) -> bool:
    """Whether the model reference of a kind has a model of this name."""
    if kind == "image":
        return name in image_models(platform).models
    return find_text_model(name, text_models(platform).models) is not None


def _listed(platform: Platform, kind: str) -> list[Row]:
    if kind not in MODEL_KINDS:
        return []
    now = standing(platform)[kind]
    waiting = (name for name in now.queued_by_model if is_known(platform, kind, name))
    names = sorted({*now.threads_by_model, *waiting})
    return [_row(now, kind, name) for name in names if rules.told(name)]


def _find(platform: Platform, name: str) -> list[Row]:
    if not rules.told(name):
        return []
    now = standing(platform)
    rows = [_row(now[kind], kind, name) for kind in MODEL_KINDS if _shown_alone(platform, now, kind, name)]
    served = [row for row in rows if row["count"]]
    return (served or rows)[:1]


def _shown_alone(platform: Platform, now: dict[str, KindStanding], kind: ModelKind, name: str) -> bool:
    if name in now[kind].threads_by_model:
        return True
    if kind == "image":
        model = image_models(platform).models.get(name)
        return model is not None and (model.baseline in KNOWN_BASELINES or name in now[kind].queued_by_model)
    return is_known(platform, kind, name)


def _row(now: KindStanding, kind: str, name: str) -> Row:
    queued = now.queued_by_model.get(name, Amount())
    threads, speed = now.threads_by_model.get(name, 0), round(now.speeds.get(name, 0.0), 1)
    return {
        "performance": speed,
        "queued": round(queued.things, 2),
        "jobs": float(queued.results),
        "eta": rules.eta(queued.things, threads, speed),
        "type": kind,
        "name": name,
        "count": threads,
    }
