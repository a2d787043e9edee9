"""How an account is shown, depending on who looks."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from email.utils import format_datetime
from enum import IntEnum
from typing import Any

from horde.kudos.rules import AccountClass, account_class
from horde.users.rules import Role, monthly_entitlement
from horde.users.schemas import (
    MonthlyKudos,
    ResponseModelStylesUser,
    UserActiveGenerations,
    UserAmountRecords,
    UserDetails,
    UserKudosDetails,
    UserRecords,
    UserThingRecords,
)

MEGA = 1_000_000


class Privilege(IntEnum):
    """How much of an account or worker somebody may see."""

    PUBLIC = 0
    OWNER = 1
    MODERATOR = 2


def describe(user: Any, active: Mapping[str, Sequence[str]], privilege: Privilege, now: float) -> UserDetails:
    """What is shown of `user`, a row of the account's facts, at `now` (Unix seconds).

    `active` holds the ids of its unexpired requests by kind.
    """
    roles = set(user.roles)
    shown: dict[str, Any] = {}
    if privilege >= Privilege.OWNER or user.public_workers:
        shown["worker_ids"] = [str(worker) for worker in user.worker_ids]
    if privilege >= Privilege.OWNER:
        shown |= {
            "contact": user.contact,
            "vpn": Role.VPN in roles,
            "special": Role.SPECIAL in roles,
            "sharedkey_ids": [str(key) for key in user.sharedkey_ids],
        }
        if active:
            shown["active_generations"] = UserActiveGenerations(
                image=list(active.get("image", ())) or None,
                text=list(active.get("text", ())) or None,
                alchemy=list(active.get("interrogation", ())) or None,
            )
    if privilege >= Privilege.MODERATOR:
        shown |= {
            "evaluating_kudos": float(user.escrow),
            "admin_comment": user.admin_comment,
            "suspicious": user.suspicions,
            "monthly_kudos": MonthlyKudos(
                amount=monthly_entitlement(user.monthly_kudos, roles, int(user.supported)),
                last_received=user.monthly_kudos_last_received
                and format_datetime(user.monthly_kudos_last_received.astimezone(UTC).replace(tzinfo=None)),
            ),
        }
    return UserDetails(
        username=f"{user.username}#{user.id}",
        id=user.id,
        kudos=float(user.kudos),
        kudos_details=UserKudosDetails(**{key: float(value) for key, value in (user.totals or {}).items()}),
        concurrency=user.concurrency,
        worker_invited=user.worker_invited,
        worker_count=len(user.worker_ids),
        moderator=Role.MODERATOR in roles,
        trusted=Role.TRUSTED in roles,
        flagged=Role.FLAGGED in roles,
        service=Role.SERVICE in roles,
        education=Role.EDUCATION in roles,
        customizer=Role.CUSTOMIZER in roles,
        deleted=Role.DELETED in roles,
        pseudonymous=account_class(user.external_id) is AccountClass.PSEUDONYMOUS,
        account_age=int(now - user.created.timestamp()),
        records=_records(user.records or ()),
        styles=[
            ResponseModelStylesUser(name=f"{user.username}#{user.id}::style::{name}", id=style_id, type=kind)
            for name, style_id, kind, public in user.styles or ()
            if public or privilege >= Privilege.OWNER
        ],
        **shown,
    )


def with_nulls(user: UserDetails) -> dict[str, Any]:
    """As a list shows it, with null for what is left out elsewhere: programs that read lists expect it."""
    left_out = dict.fromkeys(UserDetails.model_fields)
    return {**left_out, "active_generations": {}, "monthly_kudos": {}, **user.model_dump(mode="json")}


def _records(rows: Sequence[Sequence[Any]]) -> UserRecords:
    amounts = {(record, kind): float(amount) for record, kind, amount in rows}

    def things(record: str) -> UserThingRecords:
        return UserThingRecords(
            megapixelsteps=round(amounts.get((record, "image"), 0) / MEGA, 2),
            tokens=int(amounts.get((record, "text"), 0)),
        )

    def times(record: str) -> UserAmountRecords:
        return UserAmountRecords(
            **{kind: int(amounts.get((record, kind), 0)) for kind in ("image", "text", "interrogation")}
        )

    return UserRecords(
        usage=things("usage"),
        contribution=things("contribution"),
        fulfillment=times("fulfillment"),
        request=times("request"),
        style=times("style"),
    )
