"""Services that know who gives money for this horde, behind one small interface.

Each gives its members page by page; what cannot be read of a member is left out, with a line in the log.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlencode

import orjson
import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from horde.platform import outbound
from horde.platform.outbound import OutboundError
from horde.settings import Settings
from horde.users.rules import one_line

CALL_SECONDS = 15.0
MOST_PAGE_BYTES = 8 * 1024 * 1024
MOST_PAGES = 500
STRIPE_PAGE = 100
MOST_NAME = 100
MALFORMED = (LookupError, TypeError, ValueError, AttributeError)
"""What reading something that has not the expected form may raise."""

log = structlog.get_logger(__name__)


class SupporterError(Exception):
    """A service did not say who its members are, or the tiers cannot be read; the text says why."""


@dataclass(frozen=True, slots=True)
class Membership:
    """What a service says about somebody who gives money at present."""

    account: str | None
    """The account as they wrote it, `name#number` or a number,"""
    email: str | None
    """or else their e-mail address."""
    kudos: int
    """A month, for this membership."""
    name: str | None
    """How they want to be called on the sponsors' page,"""
    link: str | None
    """and an https address that their name leads to."""


class Source(Protocol):
    """A service that knows members."""

    name: str
    """As it is stored."""

    def members(self, settings: Settings) -> Iterator[Membership]:
        """Everybody who gives money at present. Raises `SupporterError`."""
        ...


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Tier(_Table):
    """What is worth so much: from `least` to `most` whole units of currency."""

    least: int
    most: int
    kudos: int = 0
    each: int = 0
    """For each unit, on top of `kudos`."""


class PatreonTable(_Table):
    """Where Patreon is asked, and its tiers."""

    api: str
    tiers: list[Tier]


class StripeTable(_Table):
    """Where Stripe is asked, and what its products are worth."""

    api: str
    products: dict[str, int]


class Tiers(_Table):
    """What the file of tiers says."""

    patreon: PatreonTable
    stripe: StripeTable


def read_tiers(path: Path) -> Tiers:
    """The file of tiers. Raises `SupporterError`."""
    try:
        return Tiers.model_validate(tomllib.loads(path.read_text()))
    except (OSError, ValueError, ValidationError) as error:
        raise SupporterError(f"{path} cannot be used: {error}") from None


def sources(settings: Settings) -> list[Source]:
    """The services that the settings name. Raises `SupporterError` for tiers that cannot be read."""
    found: list[Source] = []
    patreon = settings.patreon_creator_access_token
    if not patreon and not settings.stripe_api_key:
        return found
    tiers = read_tiers(settings.config_path(settings.supporter_tiers))
    if patreon:
        found.append(Patreon(tiers.patreon, settings.patreon_campaign_id, patreon.get_secret_value()))
    if settings.stripe_api_key:
        found.append(Stripe(tiers.stripe, settings.stripe_api_key.get_secret_value()))
    return found


def _ask(settings: Settings, url: str, secret: str, query: Mapping[str, Any]) -> dict[str, Any]:
    try:
        content = outbound.fetch_with_secret(
            settings,
            f"{url}?{urlencode(query)}",
            secret,
            max_bytes=MOST_PAGE_BYTES,
            seconds=CALL_SECONDS,
        )
        answer = orjson.loads(content)
    except OutboundError as error:
        raise SupporterError(str(error)) from error
    except orjson.JSONDecodeError as error:
        raise SupporterError("the answer is not JSON") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), list):
        raise SupporterError("the answer holds no list of members")
    return answer


def _words(value: object, most: int = MOST_NAME) -> str | None:
    """Text that somebody wrote, as one line, or a number; None when there is none."""
    text = one_line(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return text[:most] or None


def _link(value: object) -> str | None:
    link = _words(value, 1000)
    return link if link and link.startswith("https://") else None


class Patreon:
    """Active members of campaigns, whose account the campaign's owner notes beside them, as JSON."""

    name = "patreon"

    def __init__(self, table: PatreonTable, campaign: str | None, token: str) -> None:
        """Without `campaign` all those of the token's owner count."""
        self._table = table
        self._campaign = campaign
        self._token = token

    def members(self, settings: Settings) -> Iterator[Membership]:
        """See `Source`."""
        wanted = {
            "fields[member]": "patron_status,currently_entitled_amount_cents,note,full_name",
            "page[count]": "500",
        }
        for campaign in [self._campaign] if self._campaign else self._campaigns(settings):
            for entry in self._pages(settings, f"campaigns/{campaign}/members", wanted):
                try:
                    member = self._read(entry["attributes"])
                except MALFORMED as error:
                    log.warning("member of Patreon not understood", reason=type(error).__name__)
                    continue
                if member:
                    yield member

    def _campaigns(self, settings: Settings) -> list[str]:
        found = [_words(_at(entry, "id")) for entry in self._pages(settings, "campaigns", {})]
        return [campaign for campaign in found if campaign and campaign.isalnum()]

    def _pages(self, settings: Settings, path: str, wanted: Mapping[str, str]) -> Iterator[Any]:
        query = dict(wanted)
        for _ in range(MOST_PAGES):
            answer = _ask(settings, f"{self._table.api}/{path}", self._token, query)
            yield from answer["data"]
            following = _at(answer, "meta", "pagination", "cursors", "next")
            if not isinstance(following, str) or not following:
                return
            query["page[cursor]"] = following
        raise SupporterError(f"the list of {path} does not end")

    def _read(self, member: Mapping[str, Any]) -> Membership | None:
        """None: somebody who gives nothing now or whose account nobody noted."""
        if member["patron_status"] != "active_patron":
            return None
        if not (member["note"] or "").strip():
            return None
        note = orjson.loads(member["note"])
        account = _words(note.get("stable_id"))
        if account is None:
            return None
        units = int(member["currently_entitled_amount_cents"]) // 100
        return Membership(
            account=account,
            email=None,
            kudos=self._worth(units),
            name=_words(note.get("alias")) or _words(member.get("full_name")),
            link=_link(note.get("sponsor_link")),
        )

    def _worth(self, units: int) -> int:
        for tier in self._table.tiers:
            if tier.least <= units <= tier.most:
                return tier.kudos + tier.each * units
        log.warning("amount in no tier of Patreon's", units=units)
        return 0


class Stripe:
    """Active subscriptions by card. The account stands in their metadata, or the e-mail address tells."""

    name = "stripe"

    def __init__(self, table: StripeTable, key: str) -> None:
        self._table = table
        self._key = key

    def members(self, settings: Settings) -> Iterator[Membership]:
        """See `Source`."""
        names = {
            product["id"]: product["name"]
            for product in self._pages(settings, "products", {})
            if isinstance(_at(product, "id"), str) and isinstance(_at(product, "name"), str)
        }
        wanted = {"status": "active", "expand[]": "data.customer"}
        for entry in self._pages(settings, "subscriptions", wanted):
            try:
                member = self._read(entry, names)
            except MALFORMED as error:
                log.warning("subscription at Stripe not understood", reason=type(error).__name__)
                continue
            if member:
                yield member

    def _pages(self, settings: Settings, path: str, wanted: Mapping[str, str]) -> Iterator[Any]:
        query = {**wanted, "limit": str(STRIPE_PAGE)}
        for _ in range(MOST_PAGES):
            answer = _ask(settings, f"{self._table.api}/{path}", self._key, query)
            yield from answer["data"]
            if not answer.get("has_more"):
                return
            last = _at(answer["data"][-1], "id") if answer["data"] else None
            if not isinstance(last, str):
                raise SupporterError(f"the list of {path} cannot be read on")
            query["starting_after"] = last
        raise SupporterError(f"the list of {path} does not end")

    def _read(self, entry: Mapping[str, Any], names: Mapping[str, str]) -> Membership | None:
        if entry["status"] != "active":
            return None
        metadata, customer = entry.get("metadata") or {}, entry.get("customer")
        email = _words(customer.get("email"), 500) if isinstance(customer, dict) else None
        worth = 0
        for item in entry["items"]["data"]:
            product = names.get(item["price"]["product"])
            if product not in self._table.products:
                log.warning("product of Stripe's in no tier", product=product)
            worth += self._table.products.get(str(product), 0)
        return Membership(
            account=_words(metadata.get("horde_id")) or _words(metadata.get("horde")),
            email=email,
            kudos=worth,
            name=_words(metadata.get("alias")) or _words(customer and customer.get("name")),
            link=_link(metadata.get("sponsor_link")),
        )


def _at(value: Any, *path: str) -> Any:
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return value
