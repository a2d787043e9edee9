"""Examples: pictures elsewhere that show what an image style does. One of them is the primary one."""

import re
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, insert, select, text, update

from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.styles.example_schemas import InputStyleExamplePost
from horde.styles.rules import MOST_EXAMPLES
from horde.styles.schemas import StyleModify
from horde.styles.service import check_may, find
from horde.styles.tables import StyleExample
from horde.users import service as users
from horde.users.rules import Role, UserFacts

_EXAMPLES = select(StyleExample.id, StyleExample.url, StyleExample.is_primary).order_by(
    StyleExample.created, StyleExample.id
)
_DEMOTE = text("UPDATE style_examples SET is_primary = false WHERE style_id = :style AND is_primary")


def add_example(platform: Platform, api_key: str, style_id: str, new: InputStyleExamplePost) -> StyleModify:
    """Show another picture with a style. The first one is the primary one.

    Raises, in this order, `BadRequest` (400) for what is no https address, `InvalidAPIKey` (401),
    `StyleNotFound` (404), `Forbidden` (403) unless it is the caller's own or they moderate, `BadRequest`
    (400) for a text style, `TooManyStyleExamples` (403) and `ExampleURLAlreadyInUse` (400).
    """
    url = new.url or ""
    _check_url(url)
    user = users.authenticate(platform, api_key)
    example_id = new_id()
    with platform.engine.begin() as db:
        style, examples = _own(db, user, style_id)
        if style.kind != "image":
            raise BadRequest("Only image styles can have examples.")
        if len(examples) >= MOST_EXAMPLES:
            raise Forbidden(
                f"A style can have {MOST_EXAMPLES} examples at most. Delete one first.",
                "TooManyStyleExamples",
            )
        _check_new(url, examples)
        primary = bool(new.primary) or not examples
        if primary:
            db.execute(_DEMOTE, {"style": style.id})
        values = {"id": example_id, "style_id": style.id, "url": url, "is_primary": primary}
        db.execute(insert(StyleExample).values(values))
    return StyleModify(id=str(example_id))


def change_example(
    platform: Platform, api_key: str, style_id: str, example_id: str, change: InputStyleExamplePost
) -> StyleModify:
    """Change what `change` names of an example.

    Raises, in this order, `BadRequest` (400) for what is no https address, `InvalidAPIKey` (401),
    `StyleNotFound` (404), `Forbidden` (403), `StyleExampleNotFound` (404), `ExampleURLAlreadyInUse` and
    `BadRequest` (400) for the primary one that is to be so no more.
    """
    if change.url is not None:
        _check_url(change.url)
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        style, examples = _own(db, user, style_id)
        example = _one(examples, example_id)
        if change.url is not None and change.url != example.url:
            _check_new(change.url, examples)
        if change.primary is False and example.is_primary:
            raise BadRequest("One example is always shown first. Make another one primary instead.")
        if change.primary:
            db.execute(_DEMOTE, {"style": style.id})
        values = {"url": change.url or example.url, "is_primary": bool(change.primary) or example.is_primary}
        db.execute(update(StyleExample).where(StyleExample.id == example.id).values(values))
    return StyleModify(id=str(example.id))


def remove_example(platform: Platform, api_key: str, style_id: str, example_id: str) -> None:
    """Delete an example; the oldest remaining one takes the place of the primary one.

    Raises, in this order, `InvalidAPIKey` (401), `StyleNotFound` (404), `Forbidden` (403) and
    `StyleExampleNotFound` (404).
    """
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        _, examples = _own(db, user, style_id, removing=True)
        example = _one(examples, example_id)
        db.execute(delete(StyleExample).where(StyleExample.id == example.id))
        remaining = [each.id for each in examples if each.id != example.id]
        if example.is_primary and remaining:
            db.execute(update(StyleExample).where(StyleExample.id == remaining[0]).values(is_primary=True))


def _own(db: Connection, user: UserFacts, style_id: str, *, removing: bool = False) -> tuple[Any, list[Any]]:
    """A style that the caller may change, locked, and its examples."""
    style = find(db, style_id)
    check_may(user, style)
    if user.has(Role.DELETED) and not removing:
        raise Forbidden("This account is scheduled for deletion and cannot change styles.", "DeletedUser")
    return style, list(db.execute(_EXAMPLES.where(StyleExample.style_id == style.id)))


def _one(examples: list[Any], example_id: str) -> Any:
    parsed: UUID | None = parse_id(example_id)
    for example in examples:
        if example.id == parsed:
            return example
    raise NotFound(f"The style has no example with id {example_id[:60]}.", "StyleExampleNotFound")


_URL = re.compile(r"https://[^\s/?#]+[^\s]*")


def _check_url(url: str) -> None:
    if not _URL.fullmatch(url):
        raise BadRequest("url must be the address of a picture, without spaces, and start with https://.")


def _check_new(url: str, examples: list[Any]) -> None:
    if any(example.url == url for example in examples):
        raise BadRequest("The style has this example already.", "ExampleURLAlreadyInUse")
