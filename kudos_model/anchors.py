"""Prices of what no timings exist for: given, not learned.

Other families of models than Stable Diffusion 1 take a multiple of its time. The multiples are those that
the public horde publishes; timings of the families on one device replace them (see `kudos_model.factors`).
The post-processors in `UNTIMED_POST_PROCESSORS` add their own seconds: as many as the dearest timed one of
their kind at up to 50 steps.

Baselines and workflows that are not known at all count as the dearest; `features.readings` says what becomes
of other unknown names.
"""

from collections.abc import Mapping
from types import MappingProxyType

OTHER_BASELINE, OTHER_WORKFLOW = "other baseline", "other workflow"
FAMILY_FACTORS: Mapping[str, float] = MappingProxyType(
    {
        "stable diffusion 1": 1.0,
        "stable diffusion 2": 1.0,
        "stable_diffusion_xl": 2.0,
        "stable_cascade": 4.0,
        "flux_1": 8.0,
        "qwen_image": 12.0,
        "z_image_turbo": 8.0,
        OTHER_BASELINE: 12.0,
    }
)
"""By the beginning of the baseline's name: variants (`stable diffusion 2 512`) share their family's."""
SECOND_PASS, QR_CODE = "second pass of stable_cascade", "qr_code on stable_diffusion_xl"
EXTRA_FACTORS: Mapping[str, float] = MappingProxyType({SECOND_PASS: 3.0, QR_CODE: 2.0, OTHER_WORKFLOW: 2.0})
"""What is added to the family's factor: Cascade takes 7 with a second pass, a QR code on SDXL 4."""
FACTORS: Mapping[str, float] = MappingProxyType({**FAMILY_FACTORS, **EXTRA_FACTORS})

_HEAVY_UPSCALER, _LIGHT_UPSCALER, _FACE_FIXER = (1.7, 12.0), (1.6, 5.5), (1.0, 1.5)
OTHER_POST_PROCESSOR = "other post-processor"
UNTIMED_POST_PROCESSORS: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "2xModernSpanimationV1": _LIGHT_UPSCALER,
        "4xLSDIRplus": _HEAVY_UPSCALER,
        "4xNomos2_hq_dat2": _HEAVY_UPSCALER,
        "4xNomos2_realplksr_dysample": _LIGHT_UPSCALER,
        "4xNomos8kSC": _HEAVY_UPSCALER,
        "4xNomosWebPhoto_RealPLKSR": _LIGHT_UPSCALER,
        "GFPGANv1.3": _FACE_FIXER,
        "RestoreFormer": _FACE_FIXER,
        OTHER_POST_PROCESSOR: _HEAVY_UPSCALER,
    }
)
"""Seconds on the reference GPU that each adds, and seconds per 1024x1024 pixels on top."""


def family_of(baseline: str) -> str:
    """The family that a baseline belongs to."""
    return next((family for family in FAMILY_FACTORS if baseline.startswith(family)), OTHER_BASELINE)


def factor_names(baseline: str, *, hires_fix: bool, workflow: str | None) -> list[str]:
    """The entries of `FACTORS` whose sum is what a job takes compared with Stable Diffusion 1."""
    names = [family_of(baseline)]
    if names == ["stable_cascade"] and hires_fix:
        names.append(SECOND_PASS)
    if workflow == "qr_code":
        names += [QR_CODE] if names == ["stable_diffusion_xl"] else []
    elif workflow:
        names.append(OTHER_WORKFLOW)
    return names
