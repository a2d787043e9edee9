import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.generation.post_processors import HEAVY_POST_PROCESSORS, POST_PROCESSORS, UPSCALERS
from horde.image.facts import (
    advance_seed,
    batch_size,
    job_ttl_seconds,
    parse_seed,
    pixelsteps,
    uses_lcm,
)

SIDES = st.integers(1, 48).map(lambda blocks: blocks * 64)


def test_pixelsteps() -> None:
    assert pixelsteps(512, 768, 30) == 11_796_480


def test_post_processor_sets() -> None:
    assert len(POST_PROCESSORS) == 16
    assert len(UPSCALERS) == 11
    assert HEAVY_POST_PROCESSORS < POST_PROCESSORS
    assert {"CodeFormers", "RestoreFormer"} == HEAVY_POST_PROCESSORS - UPSCALERS


@pytest.mark.parametrize(
    ("sampler", "loras", "expected"),
    [
        ("lcm", [], True),
        ("k_euler", [("0195519", False)], True),
        ("k_euler", [(" 195519 ", False)], True),
        ("k_euler", [("00246747", True)], True),
        ("k_euler", [], False),
        ("k_euler", [("1", False), ("195519", False)], True),
        ("k_euler", [("195519", True)], False),
        ("k_euler", [("246747", True)], True),
        ("k_euler", [("246747", False)], False),
    ],
)
def test_uses_lcm(sampler: str, loras: list[tuple[str, bool]], expected: bool) -> None:
    assert uses_lcm(sampler, loras) is expected


@pytest.mark.parametrize(
    ("width", "height", "steps", "control", "baselines", "extra_slow", "expected"),
    [
        (512, 512, 30, False, [], False, 150),
        (512, 512, 100, False, ["stable diffusion 1"], False, 230),
        (1024, 1024, 50, False, ["stable_diffusion_xl"], False, 430),
        (512, 512, 100, True, [], False, 460),
        (512, 512, 30, False, ["stable diffusion 1", "flux_1"], False, 270),
        (1024, 1024, 8, False, ["z_image_turbo"], False, 282),
        (512, 512, 4, False, ["qwen_image"], True, 450),
        (3072, 3072, 1000, True, ["qwen_image"], True, 1_296_540),
        (576, 512, 61, False, [], True, 501),
    ],
)
def test_job_ttl(
    width: int,
    height: int,
    steps: int,
    control: bool,
    baselines: list[str],
    extra_slow: bool,
    expected: int,
) -> None:
    found = job_ttl_seconds(width, height, steps, control=control, baselines=baselines, extra_slow=extra_slow)
    assert found == expected


@given(SIDES, SIDES, st.integers(1, 1000), st.booleans(), st.booleans())
def test_job_ttl_never_falls_below_its_least(w: int, h: int, steps: int, control: bool, slow: bool) -> None:
    ttl = job_ttl_seconds(w, h, steps, control=control, baselines=["flux_1"], extra_slow=slow)
    assert ttl >= (450 if slow else 150)
    assert ttl >= job_ttl_seconds(w, h, steps, control=False, baselines=[])


@pytest.mark.parametrize(
    ("text", "seed"),
    [
        ("abc", 6513249),
        ("0", 0),
        ("007", 7),
        ("4294967295", 4294967295),
        ("4294967296", 1),
        (str(2**64 + 5), 1),
        ("-5", int.from_bytes(b"-5", "little")),
        ("²", int.from_bytes("²".encode(), "little")),
        ("٣", int.from_bytes("٣".encode(), "little")),
        ("abcde", ord("e")),
        ("\ud800", int.from_bytes(b"\xed\xa0\x80", "little")),
        ("\0", 0),
    ],
)
def test_seeds_of_texts(text: str, seed: int) -> None:
    assert parse_seed(text) == seed


@pytest.mark.parametrize("text", ["9" * 1_000_000, "0" * 1_000_000, "²" * 1_000_000, "x" * 5_000_000])
def test_huge_seeds_cost_little(text: str) -> None:
    started = time.process_time()
    assert 0 <= parse_seed(text) < 2**32
    assert time.process_time() - started < 0.5


def shifted(seed: int) -> int:
    """The rule as it is written down."""
    while seed >= 2**32:
        seed >>= 32
    return seed


@given(st.text() | st.integers(0, 10**400).map(str))
def test_seeds_are_what_the_rule_says(text: str) -> None:
    number = int(text) if text and set(text) <= set("0123456789") else None
    expected = shifted(int.from_bytes(text.encode(errors="surrogatepass"), "little"))
    assert parse_seed(text) == (expected if number is None else shifted(number))


def test_seed_variation() -> None:
    assert [advance_seed(6513249, 3, left) for left in (2, 1)] == [6513255, 6513252]
    assert advance_seed(2**32 - 1, 1000, 20) == 1


@given(st.integers(0, 2**32 - 1), st.integers(1, 1000), st.integers(1, 20))
def test_advanced_seeds_stay_seeds(seed: int, variation: int, left: int) -> None:
    assert advance_seed(seed, variation, left) == shifted(seed + variation * left) < 2**32


def batch(**changes: object) -> int:
    facts: dict[str, object] = {
        "amount": 4,
        "remaining": 20,
        "max_pixels": 1024 * 1024,
        "width": 512,
        "height": 512,
        "post_processing": (),
        "transparent": False,
        "baselines": ["stable diffusion 1"],
        "disable_batching": False,
    }
    return batch_size(**{**facts, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 4),
        ({"amount": 20}, 20),
        ({"amount": 20, "remaining": 3}, 3),
        ({"amount": 20, "disable_batching": True}, 1),
        ({"amount": 20, "width": 1024, "height": 1024}, 6),
        ({"amount": 20, "width": 1024, "height": 1024, "post_processing": ("GFPGAN",)}, 4),
        ({"amount": 20, "width": 1024, "height": 1024, "post_processing": ("CodeFormers",)}, 2),
        ({"amount": 20, "width": 1024, "height": 1024, "transparent": True}, 3),
        ({"amount": 20, "baselines": ["stable_diffusion_xl", "flux_1"]}, 5),
        ({"amount": 20, "baselines": ["stable_diffusion_xl", "z_image_turbo"]}, 3),
        ({"amount": 20, "baselines": ["stable_diffusion_xl", "qwen_image"]}, 2),
        ({"amount": 1, "width": 3072, "height": 3072}, 1),
        ({"amount": 20, "max_pixels": 10**400}, 20),
    ],
)
def test_batch_size(changes: dict[str, object], expected: int) -> None:
    assert batch(**changes) == expected


@given(
    amount=st.integers(1, 20),
    remaining=st.integers(1, 20),
    max_pixels=st.integers(1, 10**9),
    width=SIDES,
    height=SIDES,
    post_processing=st.lists(st.sampled_from(sorted(POST_PROCESSORS)), unique=True),
    transparent=st.booleans(),
    baselines=st.lists(st.sampled_from(["stable diffusion 1", "flux_1", "qwen_image", "new"])),
    disable_batching=st.booleans(),
)
def test_batches_hold_at_least_one_and_never_too_many(**facts: object) -> None:
    size = batch_size(**facts)  # type: ignore[arg-type]
    assert 1 <= size <= min(facts["amount"], facts["remaining"])  # type: ignore[type-var]
    assert size == 1 or not facts["disable_batching"]
