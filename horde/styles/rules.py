"""Rules of styles and collections: how they are named, and what becomes of a prompt."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from horde.moderation.filters import MOST_CHARACTERS
from horde.platform.errors import BadRequest
from horde.users.rules import one_line

MOST_MODELS, LONGEST_MODEL = 5, 100
MOST_TAGS = 10
MOST_EXAMPLES = 4
FULL_SAMPLER_ORDER = 7
MOST_STOPS, LONGEST_STOPS = 128, 2000
"""Stop sequences of a text style, and characters of all of them together."""

SEPARATOR = "::"
NEGATIVE = "###"

StyleKind = Literal["image", "text"]
Thing = Literal["style", "collection"]
THINGS: tuple[Thing, ...] = get_args(Thing)


@dataclass(frozen=True, slots=True)
class Reference:
    """What a name in a path or a request stands for."""

    name: str
    thing: Thing | None = None
    """None: a style or, if there is none, a collection."""
    owner_id: int | None = None
    """None: anybody's."""


def parse_reference(given: str) -> Reference | None:
    """What `given` names, other than by an id; None if it can name nothing.

    `name`, `style::name`, `alias::name`, `alias::style::name` or `style::alias::name`; the same for
    collections. An alias is `user#id`, or the id alone; it may hold the separator, which names cannot.
    """
    before, mark, name = given.rpartition(SEPARATOR)
    if before.endswith(":"):
        # Of three colons in a row the last one belongs to the name.
        before, name = before[:-1], ":" + name
    if not name:
        return None
    if not mark:
        return Reference(name)
    thing, alias = _thing_and_alias(before)
    if alias is None:
        return Reference(name, thing)
    number = alias.rpartition("#")[2]
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        return None
    return Reference(name, thing, int(number))


def _thing_and_alias(before: str) -> tuple[Thing | None, str | None]:
    """What stands before a name: one of the two, or both."""
    for thing in THINGS:
        if before == thing:
            return thing, None
        if before.endswith(SEPARATOR + thing):
            return thing, before.removesuffix(SEPARATOR + thing)
    for thing in THINGS:
        if before.startswith(thing + SEPARATOR):
            return thing, before.removeprefix(thing + SEPARATOR)
    return None, before


def full_name(alias: str, thing: Thing, name: str) -> str:
    """The name by which everybody can refer to something, whatever others call theirs."""
    return SEPARATOR.join((alias, thing, name))


def clean_name(given: str) -> str:
    """A name as it is stored. Raises `BadRequest` (400) for one that could not be referred to."""
    name = one_line(given)
    if not name or SEPARATOR in name:
        raise BadRequest(
            f"A name needs at least one visible sign, and '{SEPARATOR}' cannot be in it: that separates the "
            "parts of full names. Choose another."
        )
    return name


def clean_info(given: str) -> str:
    """A description as it is stored: plain text, in lines, with nothing invisible."""
    return "\n".join(map(one_line, given.splitlines())).strip()


def clean_tags(given: Sequence[str]) -> list[str]:
    """Tags as they are stored: each once. Raises `BadRequest` (400) for more than ten."""
    tags = _distinct(map(one_line, given))
    if len(tags) > MOST_TAGS:
        raise BadRequest(f"A style can have {MOST_TAGS} tags at most.")
    return tags


def clean_models(given: Sequence[str]) -> list[str]:
    """Models as they are stored: each once. Raises `BadRequest` (400) unless there are one to five."""
    models = _distinct(one_line(name)[:LONGEST_MODEL].rstrip() for name in given)
    if not 1 <= len(models) <= MOST_MODELS:
        raise BadRequest(f"A style needs at least one model, and can have {MOST_MODELS} at most.")
    return models


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def check_template(prompt: str, placeholders: Sequence[str]) -> None:
    """Raise, with 400, `InvalidPromptSize` for a template that is too long for any prompt, and
    `StylePromptMissingVars` unless all of `placeholders` are in it."""
    _check_length(len(prompt), "The style's prompt")
    missing = [name for name in placeholders if name not in prompt]
    if missing:
        raise BadRequest(
            f"The style's prompt lacks {' and '.join(missing)}. Put {'each' if len(missing) > 1 else 'it'} "
            "where that part of somebody's prompt is to stand.",
            "StylePromptMissingVars",
        )


def _check_length(characters: int, what: str) -> None:
    if characters > MOST_CHARACTERS:
        raise BadRequest(
            f"{what} is too long: at most {MOST_CHARACTERS} characters are possible.", "InvalidPromptSize"
        )


_PLACEHOLDER = re.compile(r"\{(p|np)\}")


def styled_image_prompt(template: str, prompt: str) -> str:
    """The prompt of an image request with a style.

    Its positive part replaces `{p}` and its negative part `{np}`; all other braces stay. Where the template
    does not say that the negative part begins, that part says so itself. Raises `InvalidPromptSize` (400)
    for what would be longer than a prompt may be: a template may repeat its parts very often.
    """
    positive, _, negative = prompt.partition(NEGATIVE)
    if negative and NEGATIVE not in template and NEGATIVE not in negative:
        negative = NEGATIVE + negative
    parts = {"p": positive, "np": negative}
    added = sum(len(parts[found[1]]) - len(found[0]) for found in _PLACEHOLDER.finditer(template))
    _check_length(len(template) + added, "The prompt with this style around it")
    # What somebody's prompt holds is never taken for a placeholder.
    return _PLACEHOLDER.sub(lambda found: parts[found[1]], template)


def check_text_params(params: Mapping[str, Any]) -> None:
    """Raise, with 400, `MissingFullSamplerOrder`, `TooManyStopSequences` or `ExcessiveStopSequence`."""
    order = params.get("sampler_order")
    if order is not None and len(set(order)) < FULL_SAMPLER_ORDER:
        raise BadRequest(
            f"sampler_order must name all samplers, which are {FULL_SAMPLER_ORDER} at least.",
            "MissingFullSamplerOrder",
        )
    stops = set(params.get("stop_sequence", ()))
    if len(stops) > MOST_STOPS:
        raise BadRequest(f"At most {MOST_STOPS} stop sequences are possible.", "TooManyStopSequences")
    if sum(map(len, stops)) > LONGEST_STOPS:
        raise BadRequest(
            f"The stop sequences together may have {LONGEST_STOPS} characters.", "ExcessiveStopSequence"
        )


def check_decent(is_profane: Callable[[str], bool], what: str, *texts: str) -> None:
    """Raise `BadRequest` (400) when any of `texts`, which are `what`, is profane."""
    if any(is_profane(text) for text in texts if text):
        raise BadRequest(f"{what} holds a profane word. Please choose another.")
