"""The operator's own words: about youth, whatever filters moderators make, and profane ones for names."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from horde.moderation.rules import SEPARATOR, normalise


class WordsError(ValueError):
    """The words cannot be used; the message says which file and why."""


def _as_scanned(text: str) -> str:
    if not text or normalise(text) != text:
        raise ValueError("write it as prompts are scanned: plain words, single spaces, no punctuation")
    return text


def _one_part(text: str) -> str:
    if SEPARATOR in text:
        raise ValueError(f"{SEPARATOR} would begin another part of the prompt")
    return text


_Scanned = Annotated[str, AfterValidator(_as_scanned)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Replaced(_Entry):
    words: Annotated[tuple[_Scanned, ...], Field(min_length=1)]
    replacement: _Scanned


class _File(_Entry):
    negative: Annotated[str, AfterValidator(_one_part)]
    emoji: tuple[Annotated[str, Field(min_length=1)], ...]
    counted_tag_models: frozenset[str]
    replace: tuple[_Replaced, ...] = ()
    profane: tuple[_Scanned, ...] = ()

    @model_validator(mode="after")
    def _replacements_are_no_words(self) -> Self:
        words = Words(self)
        for entry in self.replace:
            if words.occur_in(entry.replacement):
                raise ValueError(f"the replacement '{entry.replacement}' holds a word that is replaced")
        return self


class Words:
    """What stands in the file, ready for use. Texts that it takes are normalised."""

    def __init__(self, file: _File) -> None:
        self.negative = file.negative
        """What a rewritten prompt steers away from."""
        self._emoji = file.emoji
        self._counted_tag_models = file.counted_tag_models
        self._replacements = [entry.replacement for entry in file.replace]
        entries = ("|".join(map(re.escape, entry.words)) for entry in file.replace)
        # Matches nothing when there are no entries.
        choice = "|".join(f"({entry})" for entry in entries) or "(?!)"
        self._words = re.compile(rf"(?<![^\W\d])(?:{choice})(?![^\W\d])", re.IGNORECASE)
        self._uncounted_words = re.compile(rf"(?<!\w)(?:{choice})(?![^\W\d])", re.IGNORECASE)
        profane = "|".join(map(re.escape, file.profane)) or "(?!)"
        self._profane = re.compile(rf"(?<![^\W\d])(?:{profane})(?![^\W\d])", re.IGNORECASE)

    def emoji_in(self, text: str) -> list[str]:
        """The symbols that occur in `text`, which is as its author wrote it.

        Variants in other skin tones, and families, hold the symbols that they are made of.
        """
        return [emoji for emoji in self._emoji if emoji in text]

    def occur_in(self, text: str, models: Sequence[str] = ()) -> bool:
        """Whether any of the words occurs in `text`, for a request that names `models`."""
        return self._pattern(models).search(text) is not None

    def replaced(self, text: str, models: Sequence[str] = ()) -> str:
        """`text` with each of the words replaced in its place, for a request that names `models`."""
        return self._pattern(models).sub(lambda found: self._replacements[(found.lastindex or 1) - 1], text)

    def profane(self, text: str) -> bool:
        """Whether `text` holds one of the words that names and descriptions may not hold."""
        return self._profane.search(text) is not None

    def _pattern(self, models: Sequence[str]) -> re.Pattern[str]:
        """A model that was taught tags such as `2boys` means no age by them."""
        counts_people = len(models) == 1 and models[0] in self._counted_tag_models
        return self._uncounted_words if counts_people else self._words


def load_words(path: Path) -> Words:
    """Read the words from a TOML file (`config/moderation.toml` explains it).

    Raises `WordsError` when the file is missing or anything in it is wrong.
    """
    try:
        with path.open("rb") as file:
            return Words(_File.model_validate(tomllib.load(file)))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise WordsError(f"The moderation words {path} cannot be used: {error}") from error
