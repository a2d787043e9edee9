"""Requests with a style: finding it, and counting its uses."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, insert, text

from horde.kudos import shared_keys
from horde.kudos.rules import SharedKeyFacts
from horde.platform.errors import BadRequest, NotFound
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.styles.rules import StyleKind, parse_reference
from horde.styles.service import Content
from horde.styles.tables import StyleUse


@dataclass(frozen=True, slots=True)
class Chosen:
    """The style that a request is made with."""

    id: UUID
    kind: StyleKind
    owner_id: int
    owner_account: int | None
    """The purse of its owner; None when the account is wiped, or scheduled for deletion."""
    collection_id: UUID | None
    """The collection that it was picked from."""
    content: Content
    key: SharedKeyFacts | None
    """Its shared key, if that can be used now."""

    def rewards(self, payer_id: int) -> bool:
        """Whether its owner gets something when this account pays for a request with it."""
        return self.owner_account is not None and self.owner_id != payer_id


_STYLE = """
    SELECT styles.id, styles.kind, styles.owner_id, styles.prompt, styles.models, styles.params,
        styles.shared_key_id, CASE
            WHEN users.wiped IS NULL AND NOT EXISTS (
                SELECT FROM user_roles WHERE user_id = users.id AND role = 'deleted'
            ) THEN purse.id
        END AS owner_account
    FROM styles
    JOIN users ON users.id = styles.owner_id
    JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
"""
_STYLE_BY_ID = text(_STYLE + " WHERE styles.id = :id")
_STYLE_BY_NAME = text(
    _STYLE
    + """
    WHERE styles.name = :name AND (CAST(:owner AS bigint) IS NULL OR owner_id = CAST(:owner AS bigint))
    ORDER BY styles.kind = :kind DESC, styles.created, styles.id LIMIT 1
    """
)
_COLLECTION_BY_ID = text("SELECT id, kind FROM collections WHERE id = :id")
_COLLECTION_BY_NAME = text("""
    SELECT id, kind FROM collections
    WHERE name = :name AND (CAST(:owner AS bigint) IS NULL OR owner_id = CAST(:owner AS bigint))
    ORDER BY kind = :kind DESC, created, id LIMIT 1
""")
_MEMBER = text(
    _STYLE
    + """
    WHERE styles.id = (
        SELECT style_id FROM collection_styles WHERE collection_id = :id ORDER BY random() LIMIT 1
    )
    """
)


def choose(platform: Platform, given: str, kind: StyleKind) -> Chosen:
    """The style that an id or name stands for or, if that is a collection's, one of its styles by chance.

    Raises `StyleNotFound` (404), also for an empty collection, and `StyleMismatch` (400) for one of another
    kind.
    """
    collection_id: UUID | None = None
    with platform.read() as db:
        style = _find_style(db, given, kind)
        if style is None:
            collection = _find_collection(db, given, kind)
            if collection is None:
                raise NotFound(f"There is no style or collection '{given[:100]}'.", "StyleNotFound")
            _check_kind(collection.kind, kind)
            collection_id = collection.id
            style = db.execute(_MEMBER, {"id": collection_id}).one_or_none()
            if style is None:
                raise NotFound(f"The collection '{given[:100]}' has no styles any more.", "StyleNotFound")
        _check_kind(style.kind, kind)
        key = shared_keys.find(db, style.shared_key_id) if style.shared_key_id else None
    usable = key is not None and not key.empty and not key.expired(datetime.now(UTC))
    return Chosen(
        id=style.id,
        kind=kind,
        owner_id=style.owner_id,
        owner_account=style.owner_account,
        collection_id=collection_id,
        content=Content(style.prompt, style.models, style.params),
        key=key if usable and style.owner_account is not None else None,
    )


def _find_style(db: Connection, given: str, kind: StyleKind) -> Any:
    style_id = parse_id(given)
    if style_id is not None and (found := db.execute(_STYLE_BY_ID, {"id": style_id}).one_or_none()):
        return found
    reference = parse_reference(given)
    if reference is None or reference.thing == "collection":
        return None
    values = {"name": reference.name, "owner": reference.owner_id, "kind": kind}
    return db.execute(_STYLE_BY_NAME, values).one_or_none()


def _find_collection(db: Connection, given: str, kind: StyleKind) -> Any:
    collection_id = parse_id(given)
    if collection_id is not None:
        found = db.execute(_COLLECTION_BY_ID, {"id": collection_id}).one_or_none()
        if found is not None:
            return found
    reference = parse_reference(given)
    if reference is None or reference.thing == "style":
        return None
    values = {"name": reference.name, "owner": reference.owner_id, "kind": kind}
    return db.execute(_COLLECTION_BY_NAME, values).one_or_none()


def _check_kind(found: str, wanted: StyleKind) -> None:
    if found != wanted:
        raise BadRequest(
            f"This style is for {found} requests, and this is a request for {wanted}. Choose another style.",
            "StyleMismatch",
        )


def note_use(db: Connection, style: Chosen, payer_id: int) -> None:
    """Count a use of a style, in the transaction that accepts a request which this account pays."""
    db.execute(
        insert(StyleUse).values(
            style_id=style.id,
            collection_id=style.collection_id,
            kind=style.kind,
            rewarded_id=style.owner_id if style.rewards(payer_id) else None,
        )
    )


# Uses of what somebody changes at this moment wait for the next time. Who folds locks many rows, and whoever
# frees a shared key does too: if both waited, they could wait for each other.
_FOLD = text("""
    WITH batch AS (
        SELECT id, style_id, collection_id FROM style_uses ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), free AS (
        SELECT id FROM styles WHERE id IN (SELECT style_id FROM batch) FOR NO KEY UPDATE SKIP LOCKED
    ), free_collections AS (
        SELECT id FROM collections WHERE id IN (SELECT collection_id FROM batch)
        FOR NO KEY UPDATE SKIP LOCKED
    ), used AS (
        DELETE FROM style_uses USING batch WHERE style_uses.id = batch.id
            AND (EXISTS (SELECT FROM free WHERE id = batch.style_id)
                OR NOT EXISTS (SELECT FROM styles WHERE id = batch.style_id))
            AND (EXISTS (SELECT FROM free_collections WHERE id = batch.collection_id)
                OR NOT EXISTS (SELECT FROM collections WHERE id = batch.collection_id))
        RETURNING style_uses.*
    ), of_styles AS (
        UPDATE styles SET use_count = use_count + uses.n
        FROM (SELECT style_id, count(*) AS n FROM used GROUP BY 1) uses WHERE styles.id = uses.style_id
    ), of_collections AS (
        UPDATE collections SET use_count = use_count + uses.n
        FROM (SELECT collection_id, count(*) AS n FROM used GROUP BY 1) uses
        WHERE collections.id = uses.collection_id
    ), of_owners AS (
        INSERT INTO user_records (user_id, record, kind, amount)
        SELECT rewarded_id, 'style', kind, count(*) FROM used WHERE rewarded_id IS NOT NULL
        GROUP BY 1, 3 ORDER BY 1, 3
        ON CONFLICT (user_id, record, kind) DO UPDATE SET amount = user_records.amount + excluded.amount
    )
    SELECT count(*) FROM used
""")
BATCH = 2000


def fold_uses(platform: Platform) -> int:
    """Add uses to the counts of styles and collections and to their owners' records; returns how many."""
    total = 0
    while True:
        with platform.engine.begin() as db:
            folded = int(db.execute(_FOLD, {"limit": BATCH}).scalar_one())
        total += folded
        if folded < BATCH:
            return total
