"""Random pairs of jobs of which the second asks for more: it must never take less time."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

from kudos_model.anchors import FAMILY_FACTORS, UNTIMED_POST_PROCESSORS
from kudos_model.estimator import Estimator
from kudos_model.features import (
    CONTROL_TYPES,
    POST_PROCESSORS,
    PROCESSING_STAND_INS,
    PROCESSINGS,
    SAMPLER_STAND_INS,
    SAMPLERS,
    JobFeatures,
)

ALL_SAMPLERS = (*SAMPLERS, *SAMPLER_STAND_INS)
ALL_PROCESSINGS = (*PROCESSINGS, *PROCESSING_STAND_INS)
ALL_POST_PROCESSORS = (*POST_PROCESSORS, *UNTIMED_POST_PROCESSORS)
MOST_BLOCKS, MOST_STEPS, BLOCK = 48, 500, 64
"""Limits of the API: sides are up to 48 blocks of 64 pixels."""
AT_ONCE = 1000

Pair = tuple[str, JobFeatures, JobFeatures]
"""What is more in the second job, and the two jobs."""


@dataclass(frozen=True, slots=True)
class Monotonicity:
    """What became of random pairs."""

    pairs: dict[str, int]
    violations: dict[str, int]
    """By what was more."""

    @property
    def violated(self) -> int:
        """Pairs whose second job was estimated to take less time, by however little."""
        return sum(self.violations.values())


def random_job(chance: random.Random) -> JobFeatures:
    """Any job that the API takes, for any model."""
    strength = chance.choice([None, round(chance.uniform(0.01, 1), 2)])
    return JobFeatures(
        width=BLOCK * chance.randint(1, MOST_BLOCKS),
        height=BLOCK * chance.randint(1, MOST_BLOCKS),
        steps=chance.randint(1, MOST_STEPS),
        sampler=chance.choice(ALL_SAMPLERS),
        cfg_scale=round(chance.uniform(0, 100), 1),
        karras=chance.random() < 0.5,
        hires_fix=chance.random() < 0.2,
        source_image=chance.random() < 0.5,
        source_mask=chance.random() < 0.3,
        source_processing=chance.choice(ALL_PROCESSINGS),
        denoising_strength=strength,
        control_type=chance.choice([None, None, *CONTROL_TYPES]),
        control_strength=chance.choice([None, round(chance.uniform(0.01, 1), 2)]),
        post_processing=tuple(chance.sample(ALL_POST_PROCESSORS, chance.choice([0, 0, 1, 2, 3, 4]))),
        baseline=chance.choice(list(FAMILY_FACTORS)),
        workflow=chance.choice([None, None, "qr_code"]),
    )


def _more_steps(job: JobFeatures, chance: random.Random) -> JobFeatures:
    return replace(job, steps=chance.randint(job.steps, MOST_STEPS))


def _wider(job: JobFeatures, chance: random.Random) -> JobFeatures:
    return replace(job, width=BLOCK * chance.randint(job.width // BLOCK, MOST_BLOCKS))


def _higher(job: JobFeatures, chance: random.Random) -> JobFeatures:
    return replace(job, height=BLOCK * chance.randint(job.height // BLOCK, MOST_BLOCKS))


def _post_processed(job: JobFeatures, chance: random.Random) -> JobFeatures:
    others = [name for name in ALL_POST_PROCESSORS if name not in job.post_processing]
    return replace(job, post_processing=(*job.post_processing, chance.choice(others)))


def _second_pass(job: JobFeatures, _: random.Random) -> JobFeatures:
    return replace(job, hires_fix=True)


def _controlled(job: JobFeatures, chance: random.Random) -> JobFeatures:
    return replace(job, control_type=job.control_type or chance.choice(CONTROL_TYPES))


CHANGES: dict[str, Callable[[JobFeatures, random.Random], JobFeatures]] = {
    "more steps": _more_steps,
    "wider": _wider,
    "higher": _higher,
    "one more post-processor": _post_processed,
    "second pass": _second_pass,
    "control map": _controlled,
}


def random_pairs(seed: int) -> Iterator[Pair]:
    """Pairs without end, each change in its turn."""
    chance = random.Random(seed)
    while True:
        for name, change in CHANGES.items():
            job = random_job(chance)
            if name == "second pass":
                job = replace(job, hires_fix=False)
            elif name == "control map":
                job = replace(job, control_type=None)
            yield name, job, change(job, chance)


def check(estimator: Estimator, pairs: int, seed: int = 0) -> Monotonicity:
    """Estimate so many random pairs and count those that are wrong."""
    source = islice(random_pairs(seed), pairs)
    seen: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    while some := list(islice(source, AT_ONCE)):
        seconds = estimator.seconds([job for _, *both in some for job in both])
        seen.update(name for name, *_ in some)
        wrong.update(
            name
            for (name, *_), less, more in zip(some, seconds[::2], seconds[1::2], strict=True)
            if more < less
        )
    return Monotonicity(dict(seen), {name: wrong[name] for name in CHANGES})
