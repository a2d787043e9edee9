"""How figures follow from what was counted."""

from horde.generation.rules import UNTOLD_MODELS
from horde.platform.errors import BadRequest
from horde.status.schemas import ModelState

NOBODY_ETA = 10_000
"""Told in place of the seconds that something will take which nobody does at present."""

MODEL_STATES: tuple[ModelState, ...] = ("known", "custom", "all")


def eta(things: float, threads: int, speed: float) -> int:
    """Whole seconds until `threads`, each of `speed` raw things per second, have made `things`."""
    if not things:
        return 0
    if not threads * speed:
        return NOBODY_ETA
    return int(things / (threads * speed))


def told(model: str) -> bool:
    """Whether the model may be named to everybody."""
    return UNTOLD_MODELS not in model


def model_state(value: str) -> ModelState:
    """Which models a caller wants to see. Raises `BadRequest` (400) for what is none of `MODEL_STATES`."""
    for state in MODEL_STATES:
        if value == state:
            return state
    raise BadRequest(f"There is no model_state '{value}'. It is one of: {', '.join(MODEL_STATES)}.")


def in_state(state: ModelState, *, known: bool) -> bool:
    """Whether a model that the reference knows, or does not know, is to be shown."""
    return state == "all" or known == (state == "known")
