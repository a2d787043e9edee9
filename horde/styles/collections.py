"""Collections: making, showing, listing, changing and deleting named sets of styles."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import Connection, delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from horde.moderation.service import is_profane
from horde.platform.errors import BadRequest, Forbidden, NotFound, PayloadInvalid
from horde.platform.ids import new_id, parse_id
from horde.platform.runtime import Platform
from horde.styles import rules
from horde.styles.collection_schemas import (
    CollectionQuery,
    InputModelCollection,
    ResponseModelCollection,
    ResponseModelStylesShort,
)
from horde.styles.schemas import StyleModify
from horde.styles.service import LAST_PAGE, PAGE, check_may
from horde.styles.tables import Collection, CollectionStyle
from horde.users import service as users
from horde.users.rules import Role, UserFacts

KINDS = {"all": None, "image": "image", "text": "text"}

log = structlog.get_logger(__name__)

_SHOWN = """
    SELECT collections.*, users.username || '#' || users.id AS creator, (
        SELECT json_agg(json_build_array(maker.username || '#' || maker.id, styles.name, styles.id)
            ORDER BY member.position)
        FROM collection_styles member
        JOIN styles ON styles.id = member.style_id JOIN users maker ON maker.id = styles.owner_id
        WHERE member.collection_id = collections.id
    ) AS styles
    FROM collections JOIN users ON users.id = collections.owner_id
"""
_BY_ID = text(_SHOWN + " WHERE collections.id = :id")
_BY_NAME = text(
    _SHOWN
    + """
    WHERE name = :name AND (CAST(:owner AS bigint) IS NULL OR owner_id = CAST(:owner AS bigint))
    ORDER BY collections.created, collections.id LIMIT 1
    """
)
_LISTED = {
    order: text(
        _SHOWN
        + f"""
        WHERE public AND (CAST(:kind AS text) IS NULL OR kind = CAST(:kind AS text))
        ORDER BY {columns} LIMIT :limit OFFSET :offset
        """
    )
    for order, columns in {
        "popular": "use_count DESC, collections.id",
        "age": "collections.created, collections.id",
    }.items()
}


def list_collections(platform: Platform, wanted: CollectionQuery) -> list[ResponseModelCollection]:
    """A page of 25 public collections. Raises `BadRequest` (400) for an unknown order or type."""
    page = max(wanted.page, 1)
    if wanted.sort not in _LISTED:
        raise BadRequest("sort must be popular or age.")
    if wanted.type not in KINDS:
        raise BadRequest("type must be all, image or text.")
    if page > LAST_PAGE:
        return []
    values = {"kind": KINDS[wanted.type], "limit": PAGE, "offset": (page - 1) * PAGE}
    with platform.read() as db:
        return [_describe(row) for row in db.execute(_LISTED[wanted.sort], values)]


def collection_details(platform: Platform, collection_id: str) -> ResponseModelCollection:
    """A collection. Raises `CollectionNotFound` (404)."""
    with platform.read() as db:
        row = _by_id(db, collection_id)
    if row is None:
        raise _no_collection(collection_id)
    return _describe(row)


def named_collection(platform: Platform, name: str) -> ResponseModelCollection:
    """The collection that an id, a name or a full name stands for (see `rules.parse_reference`).

    Raises `CollectionNotFound` (404).
    """
    reference = rules.parse_reference(name)
    with platform.read() as db:
        row = _by_id(db, name)
        if row is None and reference is not None and reference.thing != "style":
            values = {"name": reference.name, "owner": reference.owner_id}
            row = db.execute(_BY_NAME, values).one_or_none()
    if row is None:
        raise _no_collection(name)
    return _describe(row)


def _by_id(db: Connection, collection_id: str) -> Any:
    parsed = parse_id(collection_id)
    return db.execute(_BY_ID, {"id": parsed}).one_or_none() if parsed else None


def _describe(row: Any) -> ResponseModelCollection:
    return ResponseModelCollection(
        id=str(row.id),
        name=row.name,
        type=row.kind,
        info=row.info,
        public=row.public,
        styles=[
            ResponseModelStylesShort(name=rules.full_name(alias, "style", name), id=style_id)
            for alias, name, style_id in row.styles or ()
        ],
        use_count=row.use_count,
        creator=row.creator,
    )


def create_collection(platform: Platform, api_key: str, new: InputModelCollection) -> StyleModify:
    """Make a collection.

    Raises, in this order, with 400, a missing name and `BadRequest` for no styles, `InvalidAPIKey` (401),
    `DeletedUser` and `StylesAnonForbidden` (403), and, with 400, `BadRequest` for unknown styles and private
    ones of others, `StyleMismatch`, and `BadRequest` for names that are profane or taken.
    """
    if new.name is None:
        raise PayloadInvalid({"name": "is required"})
    if not new.styles:
        raise BadRequest("A collection needs at least one style.")
    values = _columns(new)
    user = users.authenticate(platform, api_key)
    _check_alive(user)
    if user.anonymous:
        raise Forbidden("The anonymous account cannot make collections.", "StylesAnonForbidden")
    collection_id = new_id()
    with platform.engine.begin() as db:
        members, kind = _members(db, user, new.styles)
        _check_decent(platform, values)
        _check_free(db, user.id, values["name"], collection_id)
        defaults = {"info": "", "public": True}
        _write(
            db,
            insert(Collection).values(
                {**defaults, **values, "id": collection_id, "kind": kind, "owner_id": user.id}
            ),
            values["name"],
        )
        _set_members(db, collection_id, members)
    log.info("collection made", collection=str(collection_id), by=user.id)
    return StyleModify(id=str(collection_id))


def change_collection(
    platform: Platform, api_key: str, collection_id: str, change: InputModelCollection
) -> StyleModify:
    """Change what `change` names of a collection of the caller's.

    Raises, in this order, `InvalidAPIKey` (401), `CollectionNotFound` (404), `Forbidden` (403) for somebody
    else's, `DeletedUser` (403), and what `create_collection` raises with 400; `StyleMismatch` also for styles
    of another kind than the collection has.
    """
    values = _columns(change)
    user = users.authenticate(platform, api_key)
    with platform.engine.begin() as db:
        collection = _locked(db, collection_id)
        if collection.owner_id != user.id:
            raise Forbidden(
                "This collection belongs to somebody else. Only its owner may change it.", "Forbidden"
            )
        _check_alive(user)
        if change.styles is not None:
            if not change.styles:
                raise BadRequest("A collection needs at least one style.")
            members, kind = _members(db, user, change.styles)
            if kind != collection.kind:
                raise _mixed()
            db.execute(delete(CollectionStyle).where(CollectionStyle.collection_id == collection.id))
            _set_members(db, collection.id, members)
        _check_decent(platform, values)
        if values:
            name = values.get("name", collection.name)
            _check_free(db, user.id, name, collection.id)
            _write(db, update(Collection).where(Collection.id == collection.id).values(values), name)
    log.info(
        "collection changed", collection=collection_id, fields=sorted(change.model_fields_set), by=user.id
    )
    return StyleModify(id=str(collection.id))


def remove_collection(platform: Platform, api_key: str, collection_id: str) -> None:
    """Delete a collection of the caller's, or as a moderator anybody's. Its styles stay.

    Raises, in this order, `InvalidAPIKey` (401), `StylesAnonForbidden` (403), `CollectionNotFound` (404) and
    `Forbidden` (403).
    """
    user = users.authenticate(platform, api_key)
    if user.anonymous:
        raise Forbidden("The anonymous account has no collections to delete.", "StylesAnonForbidden")
    with platform.engine.begin() as db:
        collection = _locked(db, collection_id)
        check_may(user, collection)
        db.execute(delete(Collection).where(Collection.id == collection.id))
    log.info("collection deleted", collection=collection_id, owner=collection.owner_id, by=user.id)


def _columns(given: InputModelCollection) -> dict[str, Any]:
    values = given.model_dump(include={"name", "info", "public"}, exclude_unset=True)
    if "name" in values:
        values["name"] = rules.clean_name(values["name"])
    if "info" in values:
        values["info"] = rules.clean_info(values["info"])
    return values


# Locked, so that none of them is deleted before it is a member.
_MEMBER_BY_ID = text("SELECT id, kind, public, owner_id FROM styles WHERE id = :id FOR KEY SHARE")
_MEMBER_BY_NAME = text("""
    SELECT id, kind, public, owner_id FROM styles
    WHERE name = :name AND (CAST(:owner AS bigint) IS NULL OR owner_id = CAST(:owner AS bigint))
        AND (public OR owner_id = :user)
    ORDER BY owner_id = :user DESC, created, id LIMIT 1
    FOR KEY SHARE
""")


def _members(db: Connection, user: UserFacts, given: Sequence[str]) -> tuple[list[UUID], rules.StyleKind]:
    """The styles that a user's collection is to have, each once, and their kind.

    Of several with the same name the user's own is meant. Private ones of others are not told of.
    """
    found = [(name, _member(db, user, name)) for name in dict.fromkeys(given)]
    for name, style in found:
        if style is None or not (style.public or style.owner_id == user.id):
            raise BadRequest(f"There is no style '{name[:100]}' that you may put into a collection.")
    kinds = {style.kind for _, style in found}
    if len(kinds) > 1:
        raise _mixed()
    return list(dict.fromkeys(style.id for _, style in found)), kinds.pop()


def _member(db: Connection, user: UserFacts, given: str) -> Any:
    style_id = parse_id(given)
    if style_id is not None and (style := db.execute(_MEMBER_BY_ID, {"id": style_id}).one_or_none()):
        return style
    reference = rules.parse_reference(given)
    if reference is None or reference.thing == "collection":
        return None
    values = {"name": reference.name, "owner": reference.owner_id, "user": user.id}
    return db.execute(_MEMBER_BY_NAME, values).one_or_none()


def _set_members(db: Connection, collection_id: UUID, members: Sequence[UUID]) -> None:
    rows = [
        {"collection_id": collection_id, "style_id": style, "position": position}
        for position, style in enumerate(members)
    ]
    db.execute(insert(CollectionStyle), rows)


def _locked(db: Connection, collection_id: str) -> Any:
    query = select(*Collection.__table__.columns).where(Collection.id == parse_id(collection_id))
    collection = db.execute(query.with_for_update()).one_or_none()
    if collection is None:
        raise _no_collection(collection_id)
    return collection


def _check_alive(user: UserFacts) -> None:
    if user.has(Role.DELETED):
        raise Forbidden("This account is scheduled for deletion and cannot have collections.", "DeletedUser")


def _check_decent(platform: Platform, values: dict[str, Any]) -> None:
    for name in ("name", "info"):
        rules.check_decent(
            lambda given: is_profane(platform, given), f"The collection's {name}", values.get(name, "")
        )


def _check_free(db: Connection, owner_id: int, name: str, but: UUID) -> None:
    same = select(Collection.id).where(
        Collection.owner_id == owner_id, Collection.name == name, Collection.id != but
    )
    if db.execute(same).first() is not None:
        raise _name_taken(name)


def _write(db: Connection, statement: Any, name: str) -> None:
    try:
        db.execute(statement)
    except IntegrityError:
        raise _name_taken(name) from None


def _mixed() -> BadRequest:
    return BadRequest("All styles of a collection must be for images, or all for texts.", "StyleMismatch")


def _name_taken(name: str) -> BadRequest:
    return BadRequest(f"You have a collection called '{name}' already. Choose another name.")


def _no_collection(given: str) -> NotFound:
    return NotFound(f"There is no collection '{given[:100]}'.", "CollectionNotFound")
