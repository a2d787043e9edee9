"""What follows from the name of a model, and from the architecture that an image model was trained on."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from horde.model_reference.schemas import ImageModel, TextModel

DEFAULT_BASELINE = "stable diffusion 1"
NAME_TAGS = (
    ("[SDXL]", "stable_diffusion_xl"),
    ("[Flux]", "flux_1"),
    ("[Qwen]", "qwen_image"),
    ("[ZModel]", "z_image_turbo"),
    ("[ZImage]", "z_image_turbo"),
)
"""How the name of a model outside the reference tells its baseline."""

KNOWN_BASELINES = frozenset(
    {
        "stable diffusion 1",
        "stable diffusion 2",
        "stable diffusion 2 512",
        "stable_diffusion_xl",
        "stable_cascade",
        "flux_1",
        "qwen_image",
        "z_image_turbo",
    }
)
"""Baselines whose models image workers may offer."""


@dataclass(frozen=True, slots=True)
class Family:
    """What all models of one architecture have in common."""

    controlnet: bool = False
    unsupported_controls: frozenset[str] = frozenset()
    """Control types that do not work although ControlNet does."""
    qr_code: bool = False
    hires_fix: bool = False
    transparent: bool = False
    remix: bool = False
    """Whether several source images can be mixed."""
    slowness: int = 1
    """Times the seconds that a worker may take."""
    batch_weight: int = 1
    """Times the memory that an image takes in a batch."""


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "stable diffusion 1": Family(controlnet=True, qr_code=True, hires_fix=True, transparent=True),
        "stable diffusion 2": Family(
            controlnet=True, unsupported_controls=frozenset({"normal", "hough"}), hires_fix=True
        ),
        "stable_diffusion_xl": Family(qr_code=True, hires_fix=True, transparent=True),
        "stable_cascade": Family(hires_fix=True, remix=True),
        "flux_1": Family(slowness=3, batch_weight=5),
        "qwen_image": Family(slowness=3, batch_weight=10),
        "z_image_turbo": Family(slowness=3, batch_weight=8),
    }
)
"""By the beginning of the baseline's name: variants (`stable diffusion 2 512`) share their family."""

UNKNOWN_FAMILY = Family(controlnet=True, hires_fix=True)
"""Of a baseline that no family claims: nothing special is promised, what is usual is not refused."""


def baseline_of(name: str, models: Mapping[str, ImageModel]) -> str:
    """The baseline of a model: as the reference says; of an unknown one, as a tag in its name says."""
    model = models.get(name)
    if model is not None:
        return model.baseline
    return next((baseline for tag, baseline in NAME_TAGS if tag in name), DEFAULT_BASELINE)


def family_of(baseline: str) -> Family:
    """What holds for models of `baseline`."""
    matches = (family for prefix, family in FAMILIES.items() if baseline.startswith(prefix))
    return next(matches, UNKNOWN_FAMILY)


QUANTISATION = re.compile(
    r"""
    [-._,]
    (?:
        (?: (?:i1|imat|imatrix|ud) [-._] )?  [it]?q [1-9] (?: _ (?:\d|k|xxs|xs|s|m|l|xl|nl) )*
      | gptq (?: [-_] (?:int)? [2-8] (?:bit)? )?
      | awq (?: [-_] int4 )?
      | (?: [1-8](?:\.\d+)?bpw [-_] (?: h[68] [-_] )? )?  exl[23]  (?: [-_] [1-8](?:\.\d+)?bpw )?
      | fp8 (?: [-_] dynamic )?
      | (?:mx|nv)fp4
      | int[48]
    )
    $
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
"""The end of a text model's name that tells how its numbers are stored, with its separator."""


def without_quantisation(name: str) -> str:
    """`name` without the suffix that tells the quantisation, and with everything else.

    `koboldcpp/Foo-8B-Instruct.i1-Q4_K_M` becomes `koboldcpp/Foo-8B-Instruct`.
    """
    return QUANTISATION.sub("", name)


def find_text_model(name: str, models: Mapping[str, TextModel]) -> TextModel | None:
    """The text model that a request or a worker means by `name`, or None if the reference lacks it.

    An owner's suffix (`name::user#id`) never counts; a quantisation suffix does if the reference has it.
    """
    plain, *owners = name.split("::")
    if len(owners) != 1:
        plain = name
    return models.get(plain) or models.get(without_quantisation(plain))


def text_model_size(name: str, models: Mapping[str, TextModel]) -> float:
    """Billions of parameters, by which prices and rewards are multiplied; 1 of an unknown model."""
    model = find_text_model(name, models)
    return model.parameters / 10**9 if model is not None else 1.0
