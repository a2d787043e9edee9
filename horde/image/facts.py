"""Numbers and names that follow from an image request's parameters alone.

Sizes are pixels, amounts of work pixelsteps (pixels times accurate steps), times seconds.
"""

from collections.abc import Collection, Iterable
from fractions import Fraction

from horde.generation.post_processors import HEAVY_POST_PROCESSORS
from horde.model_reference.rules import family_of

LCM_SAMPLER = "lcm"
LCM_LORAS = frozenset({"195519", "216190", "324115"})
LCM_LORA_VERSIONS = frozenset({"246747", "247778", "268475", "243643", "225222", "219782", "363353"})
"""LoRAs that make a model a latent consistency model, which needs few steps."""

SEED_BITS = 32
MAX_SEED_DIGITS = 640
"""Longer runs of digits are taken as text, since reading them as a number takes time quadratic in their
length. Every interpreter setting allows this many."""

LEAST_JOB_SECONDS = 150
EXTRA_SLOW_FACTOR = 3


def pixelsteps(width: int, height: int, accurate: int) -> int:
    """The work in one image of `accurate` steps (see `accurate_steps`)."""
    return width * height * accurate


def uses_lcm(sampler: str, loras: Iterable[tuple[str, bool]]) -> bool:
    """Whether the image is made with latent consistency.

    `loras` are pairs of name and whether that name is the id of a version rather than of a LoRA.
    """
    if sampler == LCM_SAMPLER:
        return True
    return any(
        name.strip().lstrip("0") in (LCM_LORA_VERSIONS if is_version else LCM_LORAS)
        for name, is_version in loras
    )


def job_ttl_seconds(
    width: int,
    height: int,
    accurate: int,
    *,
    control: bool,
    baselines: Iterable[str],
    extra_slow: bool = False,
) -> int:
    """Seconds that a worker may take for a job.

    `baselines` are those of all models that the request accepts; the slowest of them counts.
    """
    seconds = 30 + 2 * accurate * width * height / 512**2
    if control:
        seconds *= 2
    seconds *= max((family_of(baseline).slowness for baseline in baselines), default=1)
    seconds = max(seconds, LEAST_JOB_SECONDS)
    return int(seconds * EXTRA_SLOW_FACTOR if extra_slow else seconds)


def batch_size(
    *,
    amount: int,
    remaining: int,
    max_pixels: int,
    width: int,
    height: int,
    post_processing: Collection[str],
    transparent: bool,
    baselines: Iterable[str],
    disable_batching: bool,
) -> int:
    """How many images of a request one worker gets at once; at least 1, which `remaining` must be too.

    `amount` is the most it asks for, `max_pixels` the largest image it makes, `remaining` what is left
    of the request, `baselines` those of the models it may use; the heaviest counts.
    """
    if disable_batching:
        return 1
    heavy = transparent or not HEAVY_POST_PROCESSORS.isdisjoint(post_processing)
    weight = (
        (1 + Fraction(2, 5) * len(post_processing))
        * (Fraction(9, 5) if heavy else 1)
        * max((family_of(baseline).batch_weight for baseline in baselines), default=1)
    )
    fitting = round(Fraction(2, 7) * max_pixels * amount / (width * height * weight))
    return max(1, min(fitting, amount, remaining))


def parse_seed(text: str) -> int:
    """The seed that a requester's text stands for, below 2**32.

    ASCII digits are a decimal number; everything else, also signs and other scripts' digits, is the
    little-endian number of its UTF-8 bytes. What is too large loses its lowest 32 bits until it fits.
    """
    if len(text) <= MAX_SEED_DIGITS and text.isascii() and text.isdigit():
        return _fold(int(text))
    return _fold(int.from_bytes(text.encode(errors="surrogatepass"), "little"))


def advance_seed(seed: int, variation: int, remaining: int) -> int:
    """The seed of the next images of a request with `seed_variation`, below 2**32.

    `remaining` is the number of images left before these are taken.
    """
    return _fold(seed + variation * remaining)


def _fold(seed: int) -> int:
    """Shift right by 32 bits until below 2**32, in one step."""
    words = (seed.bit_length() + SEED_BITS - 1) // SEED_BITS
    return seed >> SEED_BITS * max(0, words - 1)
