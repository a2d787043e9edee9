"""Styles: making, showing, listing, changing and deleting them, whatever they are for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import structlog
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from horde.generation.schemas import RequestSingleWarning
from horde.kudos import shared_keys as books
from horde.kudos.rules import SharedKeyFacts
from horde.moderation.service import is_profane
from horde.platform.errors import BadRequest, Forbidden, NotFound, Unauthorized
from horde.platform.http.fields import Input
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.styles import rules
from horde.styles.schemas import ShownStyle, StyleInput, StyleModify, StylePatch, StyleQuery
from horde.styles.tables import Style
from horde.users import service as users
from horde.users.rules import Role, UserFacts
from horde.users.shared_keys import describe_key, kept_as

PAGE = 25
LAST_PAGE = 10_000

log = structlog.get_logger(__name__)

S = TypeVar("S", bound=ShownStyle)


@dataclass(frozen=True, slots=True)
class Content:
    """What a style makes of a request."""

    prompt: str
    models: Sequence[str]
    params: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind(Generic[S]):
    """What sets the styles for one kind of generation apart."""

    name: rules.StyleKind
    schema: type[S]
    """How they are shown,"""
    params: type[Input]
    """and how their parameters are."""
    placeholders: Sequence[str]
    """What its templates must hold."""
    check: Callable[[Platform, UserFacts, Content], list[RequestSingleWarning]]
    """Refuses content that could not be asked for by this account, and warns of what may disappoint."""


_SHOWN = """
    SELECT styles.*, users.username || '#' || users.id AS creator, (
        SELECT json_agg(json_build_object('id', id, 'url', url, 'primary', is_primary) ORDER BY created, id)
        FROM style_examples WHERE style_id = styles.id
    ) AS examples
    FROM styles JOIN users ON users.id = styles.owner_id
"""
_BY_ID = text(_SHOWN + " WHERE styles.id = :id")
_BY_NAME = text(
    _SHOWN
    + """
    WHERE styles.name = :name AND (CAST(:owner AS bigint) IS NULL OR owner_id = CAST(:owner AS bigint))
    ORDER BY kind = :kind DESC, styles.created, styles.id LIMIT 1
    """
)
_LISTED = {
    order: text(
        _SHOWN
        + f"""
        WHERE public AND kind = :kind
            AND (CAST(:tag AS text) IS NULL OR tags @> ARRAY[CAST(:tag AS text)])
            AND (CAST(:model AS text) IS NULL OR models @> ARRAY[CAST(:model AS text)])
        ORDER BY {columns} LIMIT :limit OFFSET :offset
        """
    )
    for order, columns in {
        "popular": "use_count DESC, styles.id",
        "age": "styles.created, styles.id",
    }.items()
}


def list_styles(platform: Platform, kind: Kind[S], wanted: StyleQuery) -> list[S]:
    """A page of 25 public styles of a kind. Raises `BadRequest` (400) for an unknown order."""
    page = max(wanted.page, 1)
    if wanted.sort not in _LISTED:
        raise BadRequest("sort must be popular or age.")
    if page > LAST_PAGE:
        return []
    values = {
        "kind": kind.name,
        "tag": wanted.tag,
        "model": wanted.model,
        "limit": PAGE,
        "offset": (page - 1) * PAGE,
    }
    with platform.read() as db:
        rows = db.execute(_LISTED[wanted.sort], values).all()
        return _describe(db, kind, rows, None)


def style_details(platform: Platform, kind: Kind[S], style_id: str, api_key: str | None) -> S:
    """A style, as the caller may see it.

    Raises `StyleNotFound` (404), and `StyleGetMistmatch` (400) for one of another kind.
    """
    viewer = _viewer(platform, api_key)
    with platform.read() as db:
        return _describe_one(db, kind, style_id, _by_id(db, style_id), viewer)


def named_style(platform: Platform, kind: Kind[S], name: str, api_key: str | None) -> S:
    """The style that an id, a name or a full name stands for (see `rules.parse_reference`).

    Raises `StyleNotFound` (404), and `StyleGetMistmatch` (400) if there are only some of another kind.
    """
    viewer = _viewer(platform, api_key)
    reference = rules.parse_reference(name)
    with platform.read() as db:
        row = _by_id(db, name)
        if row is None and reference is not None and reference.thing != "collection":
            values = {"name": reference.name, "owner": reference.owner_id, "kind": kind.name}
            row = db.execute(_BY_NAME, values).one_or_none()
        return _describe_one(db, kind, name, row, viewer)


def _by_id(db: Connection, style_id: str) -> Any:
    parsed = parse_id(style_id)
    return db.execute(_BY_ID, {"id": parsed}).one_or_none() if parsed else None


def _describe_one(db: Connection, kind: Kind[S], given: str, row: Any, viewer: int | None) -> S:
    if row is None:
        raise no_style(given)
    _check_kind(kind, row)
    return _describe(db, kind, [row], viewer)[0]


def _viewer(platform: Platform, api_key: str | None) -> int | None:
    """Whose key it is, if anybody's: reading styles needs none, so a wrong one does no harm."""
    try:
        return users.authenticate(platform, api_key).id if api_key else None
    except Unauthorized:
        return None


def _describe(db: Connection, kind: Kind[S], rows: Sequence[Any], viewer: int | None) -> list[S]:
    ids = [row.shared_key_id for row in rows if row.shared_key_id]
    keys = books.find_many(db, ids) if ids else {}
    return [_shown(kind, row, keys.get(row.shared_key_id), viewer) for row in rows]


def _shown(kind: Kind[S], row: Any, key: SharedKeyFacts | None, viewer: int | None) -> S:
    values = {name: value for name, value in row._mapping.items() if name in kind.schema.model_fields}
    values |= {"id": str(row.id), "params": kind.params.model_validate(row.params) if row.params else None}
    if "examples" in values:
        values["examples"] = values["examples"] or []
    if key is not None:
        # Whoever attaches a key owns both, so that the two have the same name.
        details = describe_key(row.creator, key)
        if viewer == row.owner_id:
            values |= {"shared_key": details, "sharedkey": details.id}
        else:
            values["shared_key"] = details.model_copy(update={"id": None, "name": ""})
    return kind.schema(**values)


def create_style(platform: Platform, kind: Kind[S], api_key: str, new: StyleInput) -> StyleModify:
    """Make a style.

    Raises, in this order, `BadRequest` (400) for too many tags or models, `InvalidAPIKey` (401),
    `StylesRequiresCustomizer` (403), also for the anonymous account, which has no roles, `BadRequest` (400)
    for a profane name, `SharedKeyInvalid`, `SharedKeyEmpty`, `SharedKeyExpired` (400), `DeletedUser` (403),
    `BadRequest` (400) for a name that is taken, what the kind refuses, `InvalidPromptSize`,
    `StylePromptMissingVars` (400), and `BadRequest` (400) for profane words elsewhere.
    """
    values = {"params": {}} | columns(new, type(new).model_fields)
    user = users.authenticate(platform, api_key)
    if not (user.trusted or user.has(Role.CUSTOMIZER)):
        raise Forbidden(
            "Only trusted accounts and customizers may make styles. Ask the moderators for that role.",
            "StylesRequiresCustomizer",
        )
    values |= {"id": new_id(), "kind": kind.name, "owner_id": user.id}
    with platform.engine.begin() as db:
        _lock_key(db, values)
        warnings = _checked(platform, db, kind, user, values)
        _write(db, insert(Style).values(values), values["name"])
    return _stored(platform, user, values["id"], values, warnings)


def change_style(
    platform: Platform, kind: Kind[S], api_key: str, style_id: str, change: StylePatch
) -> StyleModify:
    """Change what `change` names of a style of the caller's. One that is private now leaves the collections
    of others.

    Raises, in this order, `BadRequest` (400) for too many tags or models, `InvalidAPIKey` (401),
    `StyleNotFound` (404), `StyleGetMistmatch` (400), `Forbidden` (403) for somebody else's, and what
    `create_style` raises for what the style would be then.
    """
    values = columns(change, change.model_fields_set)
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        _lock_key(db, values)
        style = find(db, style_id)
        _check_kind(kind, style)
        if style.owner_id != user.id:
            raise Forbidden("This style belongs to somebody else. Only its owner may change it.", "Forbidden")
        if values.get("shared_key_id", style.shared_key_id) == style.shared_key_id:
            # A style that was read and is sent back is not refused because its key is used up by now.
            values.pop("shared_key_id", None)
        warnings = _checked(platform, db, kind, user, values, style)
        if values:
            _write(db, update(Style).where(Style.id == style.id).values(values), values.get("name", ""))
        if values.get("public") is False:
            db.execute(_WITHDRAW, {"style": style.id, "owner": user.id})
    return _stored(platform, user, style.id, values, warnings)


_WITHDRAW = text("""
    DELETE FROM collection_styles USING collections
    WHERE style_id = :style AND collections.id = collection_id AND owner_id <> :owner
""")


def _lock_key(db: Connection, values: Mapping[str, Any]) -> None:
    """Let nobody else change the key that is to be attached.

    Keys are locked before styles, as when an owner frees one: then no two calls wait for each other.
    """
    if values.get("shared_key_id") is not None:
        books.lock(db, values["shared_key_id"])


def _checked(
    platform: Platform,
    db: Connection,
    kind: Kind[S],
    user: UserFacts,
    values: Mapping[str, Any],
    old: Any = None,
) -> list[RequestSingleWarning]:
    """Check a style as it will be with the new `values`, and bind the key that they attach."""

    def profane(given: str) -> bool:
        return is_profane(platform, given)

    def after(name: str) -> Any:
        return values[name] if name in values else getattr(old, name)

    rules.check_decent(profane, "The style's name", values.get("name", ""))
    if "shared_key_id" in values:
        _bind_key(db, user, values["shared_key_id"])
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot have new styles.", "DeletedUser")
    _check_free(db, user.id, after("name"), after("id"))
    content = Content(after("prompt"), after("models"), after("params"))
    warnings = kind.check(platform, user, content)
    rules.check_template(content.prompt, kind.placeholders)
    rules.check_decent(profane, "The style's info", values.get("info", ""))
    rules.check_decent(profane, "A tag", *values.get("tags", ()))
    rules.check_decent(profane, "A model's name", *values.get("models", ()))
    return warnings


def _bind_key(db: Connection, user: UserFacts, key_id: UUID | None) -> None:
    """Let a usable key pay for nothing but its owner's styles from now on. Only its owner may do so.

    Raises, with 400, `SharedKeyInvalid`, `SharedKeyEmpty` and `SharedKeyExpired`.
    """
    key = books.find(db, key_id) if key_id else None
    if key is None or key.user_id != user.id:
        raise BadRequest("You have no such shared key. Attach one of your own.", "SharedKeyInvalid")
    if key.empty:
        raise BadRequest("All kudos of this shared key are spent. Raise its limit first.", "SharedKeyEmpty")
    if key.expired(datetime.now(UTC)):
        raise BadRequest("This shared key has expired. Prolong it first.", "SharedKeyExpired")
    books.change(db, key.id, {"style_only": True})


def _write(db: Connection, statement: Any, name: str) -> None:
    try:
        db.execute(statement)
    except IntegrityError:
        raise _name_taken(name) from None


def _stored(
    platform: Platform,
    user: UserFacts,
    style_id: UUID,
    values: Mapping[str, Any],
    warnings: list[RequestSingleWarning],
) -> StyleModify:
    if "shared_key_id" in values:
        platform.local.drop(kept_as(values["shared_key_id"]))
    log.info("style stored", style=str(style_id), fields=sorted(values), by=user.id)
    return StyleModify(id=str(style_id), warnings=warnings)


def remove_style(platform: Platform, kind: Kind[S], api_key: str, style_id: str) -> None:
    """Delete a style of the caller's, or as a moderator anybody's; collections lose it.

    Raises, in this order, `InvalidAPIKey` (401), `StylesAnonForbidden` (403), `StyleNotFound` (404),
    `StyleGetMistmatch` (400) and `Forbidden` (403).
    """
    user = users.authenticate(platform, api_key)
    if user.anonymous:
        raise Forbidden("The anonymous account has no styles to delete.", "StylesAnonForbidden")
    with platform.engine.begin() as db:
        style = find(db, style_id)
        _check_kind(kind, style)
        check_may(user, style)
        db.execute(delete(Style).where(Style.id == style.id))
    log.info("style deleted", style=style_id, owner=style.owner_id, by=user.id)


def find(db: Connection, style_id: str) -> Any:
    """The row of a style, locked until the transaction ends. Raises `StyleNotFound` (404)."""
    query = select(*Style.__table__.columns).where(Style.id == parse_id(style_id)).with_for_update()
    style = db.execute(query).one_or_none()
    if style is None:
        raise no_style(style_id)
    return style


def check_may(user: UserFacts, thing: Any) -> None:
    """Raise `Forbidden` (403) unless a style or collection is the account's own, or it moderates."""
    if thing.owner_id != user.id and not user.has(Role.MODERATOR):
        raise Forbidden(
            "This belongs to somebody else. Only its owner and moderators may do this.", "Forbidden"
        )


def columns(given: StyleInput | StylePatch, names: Iterable[str]) -> dict[str, Any]:
    """The columns of those fields of a style that are called `names`, as they are stored.

    Raises `BadRequest` (400) for names, tags and models that cannot be.
    """
    values = given.model_dump(include=set(names) - {"params"})
    if "models" in values:
        values["models"] = rules.clean_models(values["models"])
    if "tags" in values:
        values["tags"] = rules.clean_tags(values["tags"])
    if "name" in values:
        values["name"] = rules.clean_name(values["name"])
    if "info" in values:
        values["info"] = rules.clean_info(values["info"])
    key = values.pop("sharedkey", None)
    if key is not None:
        values["shared_key_id"] = parse_id(key)
    return values | given.model_dump(mode="json", include={"params"}, exclude_unset=True)


def _check_kind(kind: Kind[S], style: Any) -> None:
    if style.kind != kind.name:
        raise BadRequest(
            f"This is a style for {style.kind} requests. Look it up under styles/{style.kind}.",
            "StyleGetMistmatch",
        )


def _check_free(db: Connection, owner_id: int, name: str, but: UUID) -> None:
    same = select(Style.id).where(Style.owner_id == owner_id, Style.name == name, Style.id != but)
    if db.execute(same).first() is not None:
        raise _name_taken(name)


def _name_taken(name: str) -> BadRequest:
    return BadRequest(f"You have a style called '{name}' already. Choose another name.")


def no_style(given: str) -> NotFound:
    """The refusal of an id or name that no style has."""
    return NotFound(f"There is no style '{given[:100]}'.", "StyleNotFound")
