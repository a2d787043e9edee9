"""Filters at work: finding them in a prompt, and taking what they find out of it.

Expressions come from moderators, and one that backtracks can take for ever. So each type has a budget of
processor time per prompt. A filter that exceeds it counts as a match, since otherwise a prompt made to exceed
it would pass; but nobody can tell whether it would have matched, so such a verdict is `undecided`, and no
reason to punish anybody.

Each filter is compiled on its own: joined into one expression they would share flags and group numbers, and
searching for it takes longer.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import regex

from horde.moderation.rules import normalise, split_prompt
from horde.moderation.words import Words

SUBJECT = 10
GROUPS = ((SUBJECT, 11), (20,))
"""The types that are used. A prompt has one point for each group of which any filter matches."""
USED_TYPES = tuple(filter_type for group in GROUPS for filter_type in group)
SUSPICIOUS = 2

BUDGET_SECONDS = 0.1
MOST_CHARACTERS = 100_000
"""Longer prompts are not scanned, and a rewritten one that grows longer is given up."""
_CACHED = 4096
_FLAGS = regex.IGNORECASE

Pattern = regex.Pattern[str]


class InvalidFilter(ValueError):
    """An expression or its replacement that cannot be used; the message says why, and holds neither."""


class TookTooLong(Exception):
    """A rewriting that exceeded its time or its length."""

    def __init__(self, filter_id: int) -> None:
        super().__init__(f"filter {filter_id} took too long")
        self.filter_id = filter_id


@dataclass(frozen=True, slots=True)
class Filter:
    """One expression in use."""

    id: int
    filter_type: int
    pattern: Pattern
    replacement: str


@dataclass(frozen=True, slots=True)
class Suspicion:
    """What a scan of a prompt found."""

    score: int
    """0 to 2."""
    matches: tuple[str, ...] = ()
    """The text that gave each point, and all symbols of the operator's list."""
    youth: bool = False
    """Whether a filter of type 10 or one of the operator's words or symbols matches."""
    too_slow: tuple[int, ...] = ()
    """Ids of filters that exceeded their time and count as matches."""

    @property
    def suspicious(self) -> bool:
        """Whether a request with this prompt must not be served as it is."""
        return self.score >= SUSPICIOUS

    @property
    def undecided(self) -> bool:
        """Whether the prompt might have scored less, given more time."""
        return bool(self.too_slow)


@lru_cache(maxsize=_CACHED)
def compile_regex(expression: str) -> Pattern:
    """`expression` ready for use, in any case. Raises `InvalidFilter`."""
    try:
        return regex.compile(expression, _FLAGS)
    except regex.error as error:
        raise InvalidFilter(str(error)) from None
    except (RecursionError, OverflowError, MemoryError):
        raise InvalidFilter("it is nested too deeply") from None


def check_filter(expression: str, replacement: str) -> None:
    """Raise `InvalidFilter` unless both can be used, alone and joined with others."""
    pattern = compile_regex(expression)
    if pattern.flags != compile_regex("x").flags:
        raise InvalidFilter("flags must be given to a group, as in (?s:...), and not to the whole expression")
    try:
        if pattern.search("", timeout=BUDGET_SECONDS):
            raise InvalidFilter("it matches the empty text, and so every prompt")
        compile_regex(f"{join([expression])}|").sub(replacement, "", timeout=BUDGET_SECONDS)
    except (regex.error, IndexError):
        raise InvalidFilter("the replacement refers to a group that the expression does not have") from None
    except TimeoutError:
        raise InvalidFilter("it takes too long even on an empty text") from None


def join(expressions: Iterable[str]) -> str:
    """One expression that matches what any of `expressions` does; empty when there are none."""
    return "|".join(f"(?:{expression})" for expression in expressions)


class _Budget:
    """Processor time of this thread, so that a busy machine does not make filters look slow."""

    def __init__(self) -> None:
        self._end = time.thread_time() + BUDGET_SECONDS

    def left(self) -> float:
        """Seconds, more than none. Raises `TimeoutError`."""
        left = self._end - time.thread_time()
        if left <= 0:
            raise TimeoutError
        return left


class FilterSet:
    """All filters in use."""

    def __init__(self, filters: Iterable[Filter]) -> None:
        by_type: dict[int, list[Filter]] = {}
        for each in filters:
            by_type.setdefault(each.filter_type, []).append(each)
        self._by_type: Mapping[int, Sequence[Filter]] = by_type

    def scan(
        self, prompt: str, words: Words, *, models: Sequence[str] = (), only: int | None = None
    ) -> Suspicion:
        """Judge the positive part of `prompt`, of a request that names `models`; `only` by that type."""
        positive, _ = split_prompt(prompt)
        text = normalise(positive)
        youth = words.occur_in(text, models)
        score, matches, too_slow = 0, [], []
        for group in GROUPS:
            for filter_type in group:
                if only not in (None, filter_type):
                    continue
                found, slow = self._first(filter_type, text)
                symbols = words.emoji_in(positive) if filter_type == SUBJECT else []
                matches += found + symbols
                too_slow += slow
                if found or symbols or slow:
                    score += 1
                    youth = youth or filter_type == SUBJECT
                    break
        return Suspicion(score, tuple(matches), youth, tuple(too_slow))

    def _first(self, filter_type: int, text: str) -> tuple[list[str], list[int]]:
        """What the first filter that matches finds, or the id of the one whose time ran out."""
        budget = _Budget()
        for each in self._by_type.get(filter_type, ()):
            try:
                # Letting other threads in, once for each filter, would cost more than the searches do.
                found = each.pattern.search(text, timeout=budget.left(), concurrent=False)
            except TimeoutError:
                return [], [each.id]
            if found:
                return [found[0]], []
        return [], []

    def replaced(self, text: str) -> str:
        """`text`, which is normalised, with what filters of type 10 find replaced in their order.

        Raises `TookTooLong`.
        """
        budget = _Budget()
        for each in self._by_type.get(SUBJECT, ()):
            try:
                text = each.pattern.sub(each.replacement, text, timeout=budget.left(), concurrent=False)
            except TimeoutError:
                raise TookTooLong(each.id) from None
            if len(text) > MOST_CHARACTERS:
                raise TookTooLong(each.id)
        return " ".join(text.split())
