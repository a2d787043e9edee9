"""Giving kudos away, and awarding them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
import structlog
from sqlalchemy import Connection, Row, text

from horde.kudos import service as ledger
from horde.kudos import shared_keys
from horde.kudos.rules import UNLIMITED, Entry, SharedKeyFacts, balanced, kudos
from horde.platform.errors import BadRequest, Forbidden, Unauthorized
from horde.platform.ids import parse_id
from horde.platform.runtime import Platform
from horde.users import once
from horde.users import service as users
from horde.users.kudos_schemas import KudosAwardInput, KudosTransferInput
from horde.users.rules import MOST_SUSPICIONS, Role, UserFacts
from horde.users.shared_keys import kept_as
from horde.users.tables import ANONYMOUS_ID

COOL_DOWN_SECONDS = 60
"""For so long nobody sends kudos back to whom they have them from."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a transfer, as it is at this moment."""

    id: int
    alias: str
    account: int
    """The purse."""
    roles: frozenset[str]
    suspicions: int

    @property
    def suspicious(self) -> bool:
        """Whether enough speaks against an account that nobody vouches for."""
        return self.suspicions >= MOST_SUSPICIONS and Role.TRUSTED not in self.roles


_PARTY = text("""
    SELECT users.id, users.username || '#' || users.id AS alias, purse.id AS account,
        ARRAY(SELECT role FROM user_roles WHERE user_id = users.id) AS roles,
        (SELECT count(*) FROM suspicions WHERE user_id = users.id AND worker_id IS NULL) AS suspicions
    FROM users JOIN accounts purse ON purse.user_id = users.id AND purse.purpose = 'balance'
    WHERE users.id = :id AND users.wiped IS NULL
""")


def _party(db: Connection, user_id: int) -> Party | None:
    row: Row[Any] | None = db.execute(_PARTY, {"id": user_id}).one_or_none()
    if row is None:
        return None
    return Party(row.id, row.alias, row.account, frozenset(row.roles), row.suspicions)


def account_number(username: str) -> int | None:
    """The number of the account that `name#number` or a bare number stands for."""
    number = username.strip().rpartition("#")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) <= 18 else None


def transfer(
    platform: Platform, api_key: str, wanted: KudosTransferInput, idempotency_key: str | None
) -> int:
    """Give kudos of the caller's to another account; returns how many.

    Raises `InvalidAPIKey` (401) and what `give` does.
    """
    return give(platform, users.authenticate(platform, api_key), wanted, idempotency_key)


def give(
    platform: Platform, caller: UserFacts, wanted: KudosTransferInput, idempotency_key: str | None
) -> int:
    """Give kudos of `caller`'s to another account; returns how many.

    Whoever calls again with the same idempotency key gets the same answer, and nothing moves. Sent to a
    shared key with a limit, they raise its limit too. Raises `InvalidAPIKey` (401) if the account has been
    wiped just now and, with 400 and in this order, `KudosTransferFromAnon`, `InvalidTargetUsername`,
    `IdempotencyKeyConflict`, what `_check_parties` raises, `NegativeKudosTransfer`,
    `InvalidKudosTransferAmount` and `KudosTransferNotEnough`.
    """
    if caller.anonymous:
        raise BadRequest(
            "The anonymous account cannot send kudos. Register for an account of your own.",
            "KudosTransferFromAnon",
        )
    event_id = once.event_id("transfer", caller.id, idempotency_key)
    with platform.engine.begin() as db:
        # What is read from here on, nobody changes who spends for the same account. Its receiver is not
        # locked: two accounts that send each other something never wait for one another.
        ledger.lock_payer(db, caller.balance_account)
        sender = _party(db, caller.id)
        if sender is None:
            raise Unauthorized("No account has this API key any more.", "InvalidAPIKey")
        receiver, key = _receiver(db, wanted.username)
        if receiver is None:
            raise BadRequest(
                "There is no such account and no such shared key. Send the name with its number, such as "
                "somebody#42, or the number alone.",
                "InvalidTargetUsername",
            )
        detail: dict[str, Any] = {"from": sender.id, "to": receiver.id, "amount": wanted.amount}
        if key is not None:
            detail["shared_key"] = str(key.id)
        if once.happened(db, event_id, detail):
            return wanted.amount
        _check_parties(db, sender, receiver, key)
        _check_amount(db, sender, wanted.amount)
        ledger.post(db, event_id, "transfer", _moved(sender, receiver, wanted.amount), detail=_json(detail))
        if key is not None and key.kudos != UNLIMITED:
            shared_keys.raise_limit(db, key.id, kudos(wanted.amount))
    if key is not None:
        platform.local.drop(kept_as(key.id))
    log.info("kudos transferred", sender=sender.id, receiver=receiver.id, amount=wanted.amount)
    return wanted.amount


def _json(detail: dict[str, Any]) -> str:
    return orjson.dumps(detail).decode()


def _receiver(db: Connection, username: str) -> tuple[Party | None, SharedKeyFacts | None]:
    """Who is meant: an account, or the owner of a shared key, and that key."""
    user_id = account_number(username)
    if user_id is not None:
        return _party(db, user_id), None
    key_id = parse_id(username.strip())
    key = shared_keys.find(db, key_id) if key_id else None
    return (None, None) if key is None else (_party(db, key.user_id), key)


_RECENT = text("""
    SELECT EXISTS (
        SELECT FROM ledger_entries entry JOIN ledger_events event ON event.id = entry.event_id
        WHERE entry.account_id = :account AND entry.account_id > 2
            AND entry.created > now() - make_interval(secs => :seconds)
            AND event.kind = 'transfer' AND CAST(event.detail ->> 'from' AS bigint) = :other
    )
""")


_REFUSALS = {
    "SharedKeyExpired": "This shared key has expired. Ask its owner to prolong it, or send the kudos to its "
    "owner.",
    "KudosTransferToAnon": "The anonymous account cannot receive kudos: nobody could spend them.",
    "KudosTransferToSelf": "You cannot send kudos to yourself.",
    "TooFastKudosTransfers": "You have got kudos from this account just now. Wait a minute before you send "
    "it some.",
    "FaultWhenKudosSending": "Your account cannot send kudos at present. Please ask the moderators.",
    "SourceAccountFlagged": "Your account is flagged and cannot send kudos. Please ask the moderators.",
    "EducationCannotSendKudos": "Accounts of places of education cannot send kudos.",
    "FaultWhenKudosReceiving": "This account cannot receive kudos at present. Its owner may ask the "
    "moderators.",
    "TargetAccountFlagged": "This account is flagged and cannot receive kudos. Its owner may ask the "
    "moderators.",
    "DeletedUser": "One of the two accounts is scheduled for deletion. It can neither send nor receive kudos "
    "unless its owner undeletes it.",
}


def _check_parties(db: Connection, sender: Party, receiver: Party, key: SharedKeyFacts | None) -> None:
    """Whether one may give the other kudos. Raises, with 400, the first of `_REFUSALS` that holds."""
    recent = {"account": sender.account, "other": receiver.id, "seconds": COOL_DOWN_SECONDS}
    broken = {
        "SharedKeyExpired": key is not None and key.expired(datetime.now(UTC)),
        "KudosTransferToAnon": receiver.id == ANONYMOUS_ID,
        "KudosTransferToSelf": receiver.id == sender.id,
        "TooFastKudosTransfers": db.execute(_RECENT, recent).scalar_one(),
        "FaultWhenKudosSending": sender.suspicious,
        "SourceAccountFlagged": Role.FLAGGED in sender.roles,
        "EducationCannotSendKudos": Role.EDUCATION in sender.roles,
        "FaultWhenKudosReceiving": receiver.suspicious,
        "TargetAccountFlagged": Role.FLAGGED in receiver.roles,
        "DeletedUser": Role.DELETED in sender.roles | receiver.roles,
    }
    for rc, message in _REFUSALS.items():
        if broken[rc]:
            raise BadRequest(message, rc)


def _check_amount(db: Connection, sender: Party, amount: int) -> None:
    if amount < 0:
        raise BadRequest("You cannot send less than nothing.", "NegativeKudosTransfer")
    if amount == 0:
        raise BadRequest("Send at least 1 kudo.", "InvalidKudosTransferAmount")
    available = ledger.available(db, sender.account)
    if amount > available:
        raise BadRequest(
            f"You can send {max(available, 0)} kudos at present, and this would take {amount}. What every "
            "account keeps, what your requests may still cost and what you earned some seconds ago cannot be "
            "sent.",
            "KudosTransferNotEnough",
        )


def _moved(sender: Party, receiver: Party, amount: int) -> list[Entry]:
    action = "donated" if Role.EDUCATION in receiver.roles else "gifted"
    moved = kudos(amount)
    return [Entry(sender.account, -moved, action), Entry(receiver.account, moved, "received")]


def award(platform: Platform, api_key: str, wanted: KudosAwardInput, idempotency_key: str | None) -> int:
    """Credit an account with kudos that nobody pays, or take some away; returns how many.

    For administrators. Calling again with the same idempotency key moves nothing. Raises, in this order,
    `InvalidAPIKey` (401), `DeletedUser` and `NotAllowedAwards` (403), and, with 400, `InvalidAwardUsername`,
    `KudosAwardToAnon`, `IdempotencyKeyConflict`, `TargetAccountFlagged` and `DeletedUser`.
    """
    caller = users.authenticate(platform, api_key)
    if caller.has(Role.DELETED):
        raise Forbidden("Your account is scheduled for deletion and cannot award kudos.", "DeletedUser")
    if not caller.has(Role.ADMIN):
        raise Forbidden("Only administrators may award kudos.", "NotAllowedAwards")
    event_id = once.event_id("award", caller.id, idempotency_key)
    with platform.engine.begin() as db:
        # Two calls with the same key come one after the other.
        ledger.lock_payer(db, caller.balance_account)
        receiver = _awarded(db, wanted.username)
        detail = {"by": caller.id, "to": receiver.id, "amount": wanted.amount}
        if once.happened(db, event_id, detail):
            return wanted.amount
        if Role.FLAGGED in receiver.roles:
            raise BadRequest("This account is flagged and cannot be awarded kudos.", "TargetAccountFlagged")
        if Role.DELETED in receiver.roles:
            raise BadRequest(
                "This account is scheduled for deletion and cannot be awarded kudos.", "DeletedUser"
            )
        entries = balanced([Entry(receiver.account, kudos(wanted.amount), "awarded")])
        if entries:
            ledger.post(db, event_id, "award", entries, detail=_json(detail))
    log.info("kudos awarded", by=caller.id, receiver=receiver.id, amount=wanted.amount)
    return wanted.amount


def _awarded(db: Connection, username: str) -> Party:
    user_id = account_number(username)
    receiver = None if user_id is None else _party(db, user_id)
    if receiver is None:
        raise BadRequest(
            "There is no such account. Send the name with its number, such as somebody#42, or the number "
            "alone.",
            "InvalidAwardUsername",
        )
    if receiver.id == ANONYMOUS_ID:
        raise BadRequest("The anonymous account cannot be awarded kudos.", "KudosAwardToAnon")
    return receiver
