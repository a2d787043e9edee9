import pytest

from horde.model_reference.rules import FAMILIES, KNOWN_BASELINES, UNKNOWN_FAMILY, baseline_of, family_of
from horde.model_reference.schemas import ImageModel

MODELS = {"Odd [SDXL]": ImageModel(name="Odd [SDXL]", baseline="stable diffusion 2")}


@pytest.mark.parametrize(
    ("name", "baseline"),
    [
        ("Odd [SDXL]", "stable diffusion 2"),
        ("Mine [SDXL]::me#12", "stable_diffusion_xl"),
        ("Mine [Flux]", "flux_1"),
        ("[Qwen] Mine", "qwen_image"),
        ("Mine [ZModel]", "z_image_turbo"),
        ("Mine [ZImage]", "z_image_turbo"),
        ("Mine [sdxl]", "stable diffusion 1"),
        ("", "stable diffusion 1"),
    ],
)
def test_baseline_comes_from_the_reference_then_from_a_tag(name: str, baseline: str) -> None:
    assert baseline_of(name, MODELS) == baseline


def test_every_known_baseline_has_a_family() -> None:
    assert all(family_of(baseline) is not UNKNOWN_FAMILY for baseline in KNOWN_BASELINES)
    assert set(FAMILIES) < KNOWN_BASELINES


def test_variants_share_their_family() -> None:
    assert family_of("stable diffusion 2 512") is family_of("stable diffusion 2")
    assert family_of("flux_1_dev") is family_of("flux_1")
    assert family_of("something new") is UNKNOWN_FAMILY


def test_what_each_family_can_do() -> None:
    able = {
        feature: {name for name, family in FAMILIES.items() if getattr(family, feature)}
        for feature in ("controlnet", "qr_code", "hires_fix", "transparent", "remix")
    }
    assert able["controlnet"] == {"stable diffusion 1", "stable diffusion 2"}
    assert able["qr_code"] == able["transparent"] == {"stable diffusion 1", "stable_diffusion_xl"}
    assert able["hires_fix"] == set(FAMILIES) - {"flux_1", "qwen_image", "z_image_turbo"}
    assert able["remix"] == {"stable_cascade"}
    assert family_of("stable diffusion 2").unsupported_controls == {"normal", "hough"}
