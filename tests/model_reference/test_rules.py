import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.model_reference.rules import (
    FAMILIES,
    KNOWN_BASELINES,
    UNKNOWN_FAMILY,
    baseline_of,
    family_of,
    find_text_model,
    text_model_size,
    without_quantisation,
)
from horde.model_reference.schemas import ImageModel, TextModel

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


TEXT_MODELS = {
    name: TextModel(name=name, parameters=parameters)
    for name, parameters in {
        "org/Foo-8B": 8_000_000_000,
        "koboldcpp/Foo-8B": 8_000_000_000,
        "koboldcpp/Foo": 1_300_000_000,
        "koboldcpp/Foo-8B-Instruct": 8_030_000_000,
        "koboldcpp/Foo-8B-qat-q4_0": 9_000_000_000,
        "org/tiny-70m": 70_000_000,
    }.items()
}
SUFFIXES = [
    *("Q4_K_M", "Q8_0", "Q6_K", "Q2_K_S", "Q3_K_XL", "Q4_0_4_8", "Q8", "q5_k_s", "TQ1_0"),
    *("IQ4_XS", "IQ2_XXS", "IQ4_NL", "i1-Q4_K_M", "i1-IQ3_M", "imat-Q5_1", "UD-Q4_K_XL", "MXFP4"),
    *(
        "GPTQ",
        "GPTQ-Int4",
        "gptq-4bit",
        "AWQ",
        "awq-int4",
        "EXL2",
        "4.0bpw-exl2",
        "6bpw-h6-exl2",
        "exl3_5bpw",
    ),
    *("FP8", "FP8-dynamic", "Int4", "int8", "NVFP4"),
]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", ["koboldcpp/Foo-8B", "koboldcpp/Foo-8B-Instruct", "org/Q3.5-Foo_27B"])
def test_exactly_the_quantisation_suffix_is_removed(name: str, suffix: str) -> None:
    for separator in "-._,":
        assert without_quantisation(name + separator + suffix) == name


@pytest.mark.parametrize(
    "name",
    [
        "org/Q3.5-Foo-27B",
        "org/Foo-8B-qat-q4_0-unquantized",
        "org/Foo_70b_fp16_hf",
        "org/Foo-8B-Q",
        "org/Foo-8BQ4_K_M",
        "org/Foo-8B-Q4_Instruct",
        "org/Qwen3-8B-AWQua",
        "org/Foo-v1.2",
        "Q4_K_M",
        "",
    ],
)
def test_what_is_no_quantisation_suffix_stays(name: str) -> None:
    assert without_quantisation(name) == name


@given(st.text(alphabet="Fo8Bq4QiK_-. ,/:1", max_size=30), st.sampled_from(SUFFIXES))
def test_nothing_before_the_suffix_is_touched(name: str, suffix: str) -> None:
    shorter = without_quantisation(f"{name}-{suffix}")
    # What directly precedes the suffix may itself read as the beginning of a longer one.
    assert shorter == name or (
        name.startswith(shorter) and re.match("(?i)[-._,](i1|4|q4)", name[len(shorter) :])
    )


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("org/Foo-8B", "org/Foo-8B"),
        ("org/Foo-8B::somebody#1", "org/Foo-8B"),
        ("org/Foo-8B::somebody::1", None),
        ("org/Foo-8B-GPTQ-Int4::somebody#1", "org/Foo-8B"),
        ("koboldcpp/Foo-8B-Q4_K_M", "koboldcpp/Foo-8B"),
        ("koboldcpp/Foo-8B-Instruct.Q4_K_M", "koboldcpp/Foo-8B-Instruct"),
        ("koboldcpp/Foo-8B-qat-q4_0", "koboldcpp/Foo-8B-qat-q4_0"),
        ("koboldcpp/Foo-8B-qat-q4_0-Q8_0", "koboldcpp/Foo-8B-qat-q4_0"),
        ("aphrodite/org/Foo-8B", None),
        ("org/foo-8b", None),
        ("", None),
    ],
)
def test_text_models_are_found_by_the_names_that_workers_use(name: str, found: str | None) -> None:
    model = find_text_model(name, TEXT_MODELS)
    assert (model.name if model else None) == found


def test_the_size_of_a_text_model() -> None:
    assert text_model_size("koboldcpp/Foo-8B-Instruct-IQ4_XS", TEXT_MODELS) == 8.03
    assert text_model_size("org/tiny-70m", TEXT_MODELS) == 0.07
    assert text_model_size("nobody/knows-13B", TEXT_MODELS) == 1
