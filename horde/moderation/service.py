"""Prompt filters: keeping them, scanning prompts with them and rewriting prompts that they object to."""

from collections.abc import Sequence
from typing import Any

import structlog
from sqlalchemy import Select, delete, insert, or_, select, text, update

from horde.moderation.filters import (
    MOST_CHARACTERS,
    USED_TYPES,
    Filter,
    FilterSet,
    InvalidFilter,
    Suspicion,
    TookTooLong,
    check_filter,
    compile_regex,
    join,
)
from horde.moderation.rules import join_prompt, normalise, split_prompt
from horde.moderation.schemas import FilterDetails, FilterRegex, PatchExistingFilter, PutNewFilter
from horde.moderation.tables import PromptFilter
from horde.moderation.words import Words, load_words
from horde.platform.errors import BadRequest, NotFound
from horde.platform.runtime import Platform
from horde.users.rules import UserFacts
from horde.users.service import require_moderator
from horde.users.tables import User

FILTERS_KEY = "filters"
FILTERS_SECONDS = 10.0
WORDS_SECONDS = 3600.0
WARNING_SECONDS = 3600.0
MOST_REWRITTEN = 7000
"""Characters of a suspicious prompt that is rewritten rather than refused."""
FORMER_MODERATOR = "a former moderator"

log = structlog.get_logger(__name__)


def scan(platform: Platform, prompt: str, models: Sequence[str] = ()) -> Suspicion:
    """Judge the positive part of `prompt`, of a request that names `models`.

    Raises `InvalidPromptSize` (400) for a prompt of more than 100,000 characters.
    """
    if len(prompt) > MOST_CHARACTERS:
        raise BadRequest(
            f"The prompt is too long: at most {MOST_CHARACTERS} characters are possible.", "InvalidPromptSize"
        )
    found = _filters(platform).scan(prompt, _words(platform), models=models)
    for filter_id in found.too_slow:
        _warn(platform, "filter exceeds its time", filter_id)
    return found


def rewrite(
    platform: Platform,
    prompt: str,
    suspicion: Suspicion,
    models: Sequence[str] = (),
    *,
    replace_words: bool,
) -> str | None:
    """`prompt` without what filters of type 10 find, steering away from youth; its weights are lost.

    With `replace_words` the operator's words are replaced too, as it befits a request that names `models`.
    None when nothing is left of the positive part: then it cannot be saved. Raises `BadRequest` (400) when
    the prompt is suspicious and its positive part has more than 7000 characters, and `CorruptPrompt` (400)
    when a filter exceeds its time, for which nobody should be punished.
    """
    positive, negative = split_prompt(prompt)
    if suspicion.suspicious and len(positive) > MOST_REWRITTEN:
        raise BadRequest(
            f"This prompt would have to be rewritten, and is too long for that. Shorten it to "
            f"{MOST_REWRITTEN} characters, the negative prompt not counted."
        )
    words = _words(platform)
    try:
        positive = _filters(platform).replaced(normalise(positive))
    except TookTooLong as error:
        _warn(platform, "filter exceeds its time", error.filter_id)
        raise BadRequest(
            "This prompt would have to be rewritten, and that takes too long. Please word it differently.",
            "CorruptPrompt",
        ) from None
    if replace_words:
        positive = words.replaced(positive, models)
    return join_prompt(positive, words.negative, negative) if positive else None


def is_profane(platform: Platform, name: str) -> bool:
    """Whether a name or description holds one of the operator's profane words, even thinly disguised."""
    return _words(platform).profane(normalise(name))


def _words(platform: Platform) -> Words:
    path = platform.settings.config_path(platform.settings.moderation_words)
    return platform.local.get("moderation_words", WORDS_SECONDS, lambda: load_words(path))


def _filters(platform: Platform) -> FilterSet:
    return platform.local.get(FILTERS_KEY, FILTERS_SECONDS, lambda: _load_filters(platform))


def _load_filters(platform: Platform) -> FilterSet:
    """The filters in use; one that cannot be used, which only got in past this server, is left out."""
    with platform.read() as db:
        rows = db.execute(
            select(PromptFilter).where(PromptFilter.filter_type.in_(USED_TYPES)).order_by(PromptFilter.id)
        ).all()
    usable = []
    for row in rows:
        try:
            check_filter(row.regex, row.replacement)
        except InvalidFilter:
            _warn(platform, "filter cannot be used", row.id)
        else:
            usable.append(Filter(row.id, row.filter_type, compile_regex(row.regex), row.replacement))
    return FilterSet(usable)


def _warn(platform: Platform, event: str, filter_id: int) -> None:
    """Tell of a filter once an hour, and not what is in it."""

    def tell() -> bool:
        log.warning(event, filter=filter_id)
        return True

    platform.local.get(f"{event}:{filter_id}", WARNING_SECONDS, tell)


def _details(row: Any) -> FilterDetails:
    return FilterDetails(
        id=str(row.id),
        regex=row.regex,
        filter_type=row.filter_type,
        description=row.description,
        replacement=row.replacement,
        user=FORMER_MODERATOR if row.user_id is None else f"{row.username}#{row.user_id}",
    )


def _shown() -> Select[Any]:
    return (
        select(*PromptFilter.__table__.columns, User.username)
        .outerjoin(User, User.id == PromptFilter.user_id)
        .order_by(PromptFilter.id)
    )


def _filter_id(given: str) -> int:
    if not (given.isascii() and given.isdigit()) or len(given) > 18:
        raise _no_filter(given)
    return int(given)


def _no_filter(given: object) -> NotFound:
    return NotFound(f"There is no filter with id {str(given)[:60]}.", "FilterNotFound")


def list_filters(
    platform: Platform, api_key: str, *, filter_type: int | None, contains: str | None
) -> list[FilterDetails]:
    """All filters, or those of a type, or with a text in their expression or description (in that case).

    Like everything here that takes an API key, for moderators: see `require_moderator`.
    """
    require_moderator(platform, api_key)
    query = _shown()
    if filter_type is not None:
        query = query.where(PromptFilter.filter_type == filter_type)
    if contains:
        query = query.where(
            or_(
                PromptFilter.regex.contains(contains, autoescape=True),
                PromptFilter.description.contains(contains, autoescape=True),
            )
        )
    with platform.read() as db:
        return [_details(row) for row in db.execute(query)]


def filter_details(platform: Platform, api_key: str, filter_id: str) -> FilterDetails:
    """One filter. Raises `FilterNotFound` (404)."""
    number = _filter_id(filter_id)
    require_moderator(platform, api_key)
    with platform.read() as db:
        row = db.execute(_shown().where(PromptFilter.id == number)).one_or_none()
    if row is None:
        raise _no_filter(number)
    return _details(row)


def joined_filters(platform: Platform, api_key: str, *, filter_type: int | None) -> list[FilterRegex]:
    """One expression for each type in use, or for one of them."""
    require_moderator(platform, api_key)
    found: dict[int, list[str]] = {used: [] for used in USED_TYPES if filter_type in (None, used)}
    query = select(PromptFilter.filter_type, PromptFilter.regex).order_by(PromptFilter.id)
    with platform.read() as db:
        for used, expression in db.execute(query.where(PromptFilter.filter_type.in_(found))):
            found[used].append(expression)
    return [FilterRegex(filter_type=used, regex=join(each)) for used, each in found.items()]


def try_filters(platform: Platform, api_key: str, prompt: str, *, filter_type: int | None) -> Suspicion:
    """How a request with this prompt would be judged, by all filters or only those of one type."""
    require_moderator(platform, api_key)
    return _filters(platform).scan(prompt, _words(platform), only=filter_type)


def _check(expression: str, replacement: str) -> None:
    try:
        check_filter(expression, replacement)
    except InvalidFilter as error:
        raise BadRequest(f"The filter cannot be used: {error}.") from None


def add_filter(platform: Platform, api_key: str, new: PutNewFilter) -> FilterDetails:
    """Add a filter, or show the one of the same type with the same expression, as it is.

    Raises `BadRequest` (400) for an expression or replacement that cannot be used.
    """
    moderator = require_moderator(platform, api_key)
    _check(new.regex, new.replacement)
    same = _shown().where(PromptFilter.regex == new.regex, PromptFilter.filter_type == new.filter_type)
    with platform.engine.begin() as db:
        # So that of two moderators who add the same filter at once, the second sees the first one's.
        db.execute(text("LOCK TABLE filters IN SHARE ROW EXCLUSIVE MODE"))
        row = db.execute(same.limit(1)).one_or_none()
        if row is not None:
            return _details(row)
        values = {**new.model_dump(), "description": new.description or None, "user_id": moderator.id}
        added = db.execute(insert(PromptFilter).values(values).returning(PromptFilter.id)).scalar_one()
        row = db.execute(_shown().where(PromptFilter.id == added)).one()
    _changed(platform, "filter added", added, moderator)
    return _details(row)


def change_filter(
    platform: Platform, api_key: str, filter_id: str, change: PatchExistingFilter
) -> FilterDetails:
    """Change what `change` gives. An empty description or replacement is removed; an empty expression counts
    as not given.

    Raises `FilterNotFound` (404), `NoFilterModSelected` (400) when nothing is given, and `BadRequest` (400)
    for an expression or replacement that cannot be used.
    """
    number = _filter_id(filter_id)
    moderator = require_moderator(platform, api_key)
    values = change.model_dump(exclude_unset=True)
    if not change.regex:
        values.pop("regex", None)
    if not values:
        raise BadRequest(
            "Give at least one of regex, filter_type, description and replacement.", "NoFilterModSelected"
        )
    if "description" in values:
        values["description"] = values["description"] or None
    this = PromptFilter.id == number
    with platform.engine.begin() as db:
        row = db.execute(select(PromptFilter.__table__).where(this).with_for_update()).one_or_none()
        if row is None:
            raise _no_filter(number)
        if "regex" in values or "replacement" in values:
            _check(values.get("regex", row.regex), values.get("replacement", row.replacement))
        db.execute(update(PromptFilter).where(this).values(**values, user_id=moderator.id))
        details = _details(db.execute(_shown().where(this)).one())
    _changed(platform, "filter changed", number, moderator)
    return details


def remove_filter(platform: Platform, api_key: str, filter_id: str) -> None:
    """Remove a filter. Raises `FilterNotFound` (404)."""
    number = _filter_id(filter_id)
    moderator = require_moderator(platform, api_key)
    with platform.engine.begin() as db:
        if not db.execute(delete(PromptFilter).where(PromptFilter.id == number)).rowcount:
            raise _no_filter(number)
    _changed(platform, "filter removed", number, moderator)


def _changed(platform: Platform, event: str, filter_id: int, moderator: UserFacts) -> None:
    platform.local.drop(FILTERS_KEY)
    log.info(event, filter=filter_id, moderator=moderator.id)
