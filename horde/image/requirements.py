"""What a model asks of the settings that it is used with, and what is done about settings that do not fit.

An image model's reference entry may state requirements. The policy says what becomes of a request that does
not meet them: `correct` (settings are moved to the nearest that fits), `warn` (they stay), `reject`.
"""

from dataclasses import dataclass, replace
from typing import Any, get_args

from horde.generation.schemas import ModelRequirements, WarningCode
from horde.image.schemas import Sampler
from horde.model_reference.schemas import Requirements
from kudos_model.features import accurate_steps

SAMPLERS = get_args(Sampler)


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that requirements speak of, as they will be used."""

    steps: int
    cfg_scale: float
    sampler: str
    karras: bool
    clip_skip: int

    @property
    def scheduler(self) -> str:
        """The name that requirements use for the noise schedule."""
        return "karras" if self.karras else "simple"


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A setting that does not meet a requirement."""

    code: WarningCode
    field: str
    old: Any
    new: Any
    """The nearest value that does; the same as `old` when there is none that this horde knows."""
    wanted: str
    """The requirement in words."""

    def reason(self, model: str) -> str:
        """What is wrong, in a clause, where a request names `model`."""
        return f"{self.field} is {_shown(self.old)}, but the model '{model}' needs {self.wanted}"

    def warning(self, model: str, policy: ModelRequirements) -> str:
        """What to tell the sender of a request that goes on under `policy`."""
        if policy == "correct" and self.new != self.old:
            return (
                f"{self.field} was changed from {_shown(self.old)} to {_shown(self.new)}, "
                f"because the model '{model}' needs {self.wanted}."
            )
        return f"{self.reason(model)}. The result may disappoint."


def fit(settings: Settings, requirements: Requirements) -> tuple[Settings, list[Mismatch]]:
    """`settings` moved to the nearest that meet `requirements`, and what did not meet them."""
    found: list[Mismatch] = []
    for check in (_fit_clip_skip, _fit_steps, _fit_cfg_scale, _fit_sampler, _fit_scheduler):
        mismatch, change = check(settings, requirements)
        if mismatch is not None:
            found.append(mismatch)
            settings = replace(settings, **change)
    return settings, found


Fitted = tuple[Mismatch | None, dict[str, Any]]
FITS: Fitted = (None, {})


def _fit_clip_skip(settings: Settings, needs: Requirements) -> Fitted:
    if needs.clip_skip in (None, settings.clip_skip):
        return FITS
    return _mismatch("ClipSkipMismatch", "clip_skip", settings.clip_skip, needs.clip_skip, "{}")


def _fit_steps(settings: Settings, needs: Requirements) -> Fitted:
    steps = settings.steps
    if needs.min_steps is not None and steps < needs.min_steps:
        return _mismatch("StepsTooFew", "steps", steps, needs.min_steps, "at least {}")
    if needs.max_steps is not None and steps > needs.max_steps:
        return _mismatch("StepsTooMany", "steps", steps, needs.max_steps, "at most {}")
    return FITS


def _fit_cfg_scale(settings: Settings, needs: Requirements) -> Fitted:
    cfg_scale = settings.cfg_scale
    if needs.cfg_scale is not None and cfg_scale != needs.cfg_scale:
        return _mismatch("CfgScaleMismatch", "cfg_scale", cfg_scale, needs.cfg_scale, "{}")
    if needs.min_cfg_scale is not None and cfg_scale < needs.min_cfg_scale:
        return _mismatch("CfgScaleTooSmall", "cfg_scale", cfg_scale, needs.min_cfg_scale, "at least {}")
    if needs.max_cfg_scale is not None and cfg_scale > needs.max_cfg_scale:
        return _mismatch("CfgScaleTooLarge", "cfg_scale", cfg_scale, needs.max_cfg_scale, "at most {}")
    return FITS


def _fit_sampler(settings: Settings, needs: Requirements) -> Fitted:
    if not needs.samplers or settings.sampler in needs.samplers:
        return FITS
    known = [name for name in needs.samplers if name in SAMPLERS] or [settings.sampler]
    # The nearest takes as much work a step; the price should not double because of a name.
    work = accurate_steps(settings.sampler, settings.steps)
    nearest = min(known, key=lambda name: abs(accurate_steps(name, settings.steps) - work))
    return (
        Mismatch("SamplerMismatch", "sampler_name", settings.sampler, nearest, " or ".join(needs.samplers)),
        {"sampler": nearest},
    )


def _fit_scheduler(settings: Settings, needs: Requirements) -> Fitted:
    if not needs.schedulers or settings.scheduler in needs.schedulers:
        return FITS
    wanted = not settings.karras if {"karras", "simple"} & set(needs.schedulers) else settings.karras
    text = f"the scheduler {' or '.join(needs.schedulers)}"
    return Mismatch("SchedulerMismatch", "karras", settings.karras, wanted, text), {"karras": wanted}


def _mismatch(code: WarningCode, field: str, old: float, new: float | None, wanted: str) -> Fitted:
    return Mismatch(code, field, old, new, wanted.format(_shown(new))), {field: new}


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)
