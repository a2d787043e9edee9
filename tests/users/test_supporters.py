"""Who supports the horde, as the services say it: who is meant, what they get, and what goes wrong."""

import dataclasses
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from pydantic import SecretStr

from horde.platform.runtime import Platform
from horde.settings import ROOT
from horde.users import service as users
from horde.users import supporters
from horde.users.supporter_sources import Patreon, SupporterError, read_tiers
from horde.users.supporters import Sponsor
from tests.https_server import HttpsServer, https_server, reply
from tests.support import Account, Horde, another_process, assert_refused, change, unchanged

TOKEN, STRIPE_KEY = "a token", "a key"


class Services:
    """Patreon and Stripe as this server sees them."""

    def __init__(self, server: HttpsServer) -> None:
        self.server = server
        self.members: list[Any] = []
        self.subscriptions: list[Any] = []
        self.products: list[Any] = [{"id": "prod_1", "name": "Recognised"}, {"id": "prod_2", "name": "Cup"}]
        self.campaigns: list[Any] = [{"type": "campaign", "id": "77"}]
        self.page = 100
        self.broken = False
        server.answer = self.answer

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        wanted = TOKEN if url.path.startswith("/patreon") else STRIPE_KEY
        if handler.headers["Authorization"] != f"Bearer {wanted}" or self.broken:
            reply(500 if self.broken else 401, b"{}")(handler)
            return
        lists = {"/patreon/campaigns": self.campaigns, "/patreon/campaigns/77/members": self.members}
        if url.path in lists:
            found = lists[url.path]
            first = int(query.get("page[cursor]", 0))
            last = first + self.page
            following = str(last) if last < len(found) else None
            meta = {"pagination": {"cursors": {"next": following}}}
            content: Any = {"data": found[first:last], "meta": meta}
        else:
            everything = {"/stripe/products": self.products, "/stripe/subscriptions": self.subscriptions}
            rows = everything[url.path]
            ids = [row["id"] for row in rows]
            first = ids.index(query["starting_after"]) + 1 if "starting_after" in query else 0
            last = first + self.page
            content = {"data": rows[first:last], "has_more": last < len(rows)}
        reply(200, orjson.dumps(content))(handler)

    def member(self, note: Any, cents: Any = 1000, status: str = "active_patron") -> None:
        text = note if isinstance(note, str | None) else orjson.dumps(note).decode()
        attributes = {
            "patron_status": status,
            "currently_entitled_amount_cents": cents,
            "note": text,
            "full_name": "Full Name",
        }
        self.members.append({"type": "member", "attributes": attributes})

    def subscription(
        self,
        metadata: dict[str, Any] | None = None,
        *,
        email: str | None = None,
        product: Any = "prod_1",
        status: str = "active",
    ) -> None:
        self.subscriptions.append(
            {
                "id": f"sub_{len(self.subscriptions)}",
                "status": status,
                "metadata": metadata or {},
                "customer": {"email": email, "name": "Customer"},
                "items": {"data": [{"price": {"product": product}}]},
            }
        )


@pytest.fixture
def patrons(tmp_path: Path) -> Iterator[Services]:
    with https_server(tmp_path) as server:
        yield Services(server)


def settings_for(patrons: Services, tmp_path: Path, **values: Any) -> dict[str, Any]:
    tiers = (ROOT / "config" / "supporters.toml").read_text()
    tiers = tiers.replace("https://www.patreon.com/api/oauth2/v2", patrons.server.url("/patreon"))
    tiers = tiers.replace("https://api.stripe.com/v1", patrons.server.url("/stripe"))
    (tmp_path / "supporters.toml").write_text(tiers)
    return {
        "patreon_creator_access_token": TOKEN,
        "patreon_campaign_id": "77",
        "stripe_api_key": STRIPE_KEY,
        "supporter_tiers": str(tmp_path / "supporters.toml"),
        "outbound_networks": (ip_network("127.0.0.0/8"),),
        "outbound_ca_file": patrons.server.ca_file,
    } | values


@pytest.fixture
def asking(horde: Horde, patrons: Services, tmp_path: Path) -> Iterator[Platform]:
    """The horde, with access to both patrons."""
    values = settings_for(patrons, tmp_path)
    values |= {name: SecretStr(values[name]) for name in ("patreon_creator_access_token", "stripe_api_key")}
    with another_process(horde, **values) as process:
        yield process.platform


def rows(platform: Platform) -> dict[tuple[str, int], int]:
    with platform.read() as db:
        found = db.exec_driver_sql("SELECT source, user_id, kudos FROM supporters")
        return {(row.source, row.user_id): row.kudos for row in found}


class TestPatreon:
    @pytest.mark.parametrize(
        ("units", "kudos"),
        [
            (0, 0),
            (1, 10_000),
            (9, 90_000),
            (10, 150_000),
            (11, 0),
            (24, 600_000),
            (25, 900_000),
            (50, 1_500_000),
            (100, 1_500_000),
            (101, 0),
            (102, 150_000),
            (108, 150_000),
            (109, 0),
        ],
    )
    def test_tiers(self, units: int, kudos: int) -> None:
        table = read_tiers(ROOT / "config" / "supporters.toml").patreon
        assert Patreon(table, "77", TOKEN)._worth(units) == kudos

    def test_members(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        ada, bob, eve = (horde.account(username=name) for name in ("Ada", "Bob", "Eve"))
        patrons.member({"stable_id": ada.alias, "alias": "A.", "sponsor_link": "https://a.example"}, 2499)
        patrons.member({"stable_id": str(bob.id), "sponsor_link": "javascript:alert(1)"}, 1050)
        patrons.member({"stable_id": eve.id}, 500, status="former_patron")
        assert supporters.refresh(asking) == 2
        assert rows(asking) == {("patreon", ada.id): 600_000, ("patreon", bob.id): 150_000}
        assert supporters.sponsors(asking) == [
            Sponsor("A.", "https://a.example", 600_000),
            Sponsor("Full Name", None, 150_000),
        ]

    def test_what_cannot_be_read_is_left_out(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        ada = horde.account()
        for note in (None, "", "thanks!", "[]", "7", {"stable_id": None}, {"stable_id": {}}, "{", {}):
            patrons.member(note)
        patrons.member({"stable_id": ada.id}, cents=None)
        patrons.member({"stable_id": ada.id}, cents="much")
        patrons.members += [None, {}, {"attributes": None}, 7]
        for account in ("Nobody#9999", "0", "Anonymous#0", "nobody"):
            patrons.member({"stable_id": account})
        patrons.member({"stable_id": ada.id}, 100)
        assert supporters.refresh(asking) == 1
        assert rows(asking) == {("patreon", ada.id): 10_000}

    def test_all_pages_are_read(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        accounts = [horde.account() for _ in range(7)]
        patrons.page = 3
        for account in accounts:
            patrons.member({"stable_id": account.alias})
        assert supporters.refresh(asking) == 7

    def test_without_a_campaign_all_of_the_owners_count(
        self, asking: Platform, patrons: Services, horde: Horde
    ) -> None:
        patrons.page = 1
        patrons.campaigns = [None, {"id": "../77"}, {"id": {}}, {"type": "campaign", "id": "77"}]
        ada = horde.account()
        patrons.member({"stable_id": ada.id})
        settings = asking.settings.model_copy(update={"patreon_campaign_id": None})
        assert supporters.refresh(dataclasses.replace(asking, settings=settings)) == 1
        assert rows(asking) == {("patreon", ada.id): 150_000}

    def test_names_are_plain_words(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        patrons.member({"stable_id": horde.account().id, "alias": "A\x00d\u202ea\n B"})
        patrons.member(
            {"stable_id": f"Bob\x00#{horde.account().id}", "sponsor_link": "https://b.example/\x00"}
        )
        assert supporters.refresh(asking) == 2
        assert supporters.sponsors(asking) == [
            Sponsor("Ada B", None, 150_000),
            Sponsor("Full Name", "https://b.example/", 150_000),
        ]

    def test_several_memberships_are_added_up(
        self, asking: Platform, patrons: Services, horde: Horde
    ) -> None:
        ada = horde.account()
        patrons.member({"stable_id": ada.id}, 1000)
        patrons.member({"stable_id": ada.alias}, 500)
        supporters.refresh(asking)
        assert rows(asking) == {("patreon", ada.id): 200_000}


class TestStripe:
    def test_subscriptions(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        ada, bob, eve, joe = (horde.account(username=name) for name in ("Ada", "Bob", "Eve", "Joe"))
        change(horde.platform, "UPDATE users SET contact = ' Eve@Example.com ' WHERE id = :id", id=eve.id)
        patrons.subscription({"horde_id": ada.alias, "alias": "A.", "sponsor_link": "https://a.example"})
        patrons.subscription({"horde": str(bob.id)}, product="prod_2")
        patrons.subscription(email="eve@example.com")
        patrons.subscription({"horde_id": joe.alias}, status="canceled")
        patrons.subscription(email="nobody@example.com")
        patrons.subscription()
        assert supporters.refresh(asking) == 3
        assert rows(asking) == {("stripe", ada.id): 75_000, ("stripe", bob.id): 0, ("stripe", eve.id): 75_000}
        assert supporters.sponsors(asking)[0] == Sponsor("A.", "https://a.example", 75_000)

    def test_an_address_that_several_claim_is_nobodys(
        self, asking: Platform, patrons: Services, horde: Horde
    ) -> None:
        impostor, eve = horde.account(), horde.account()
        for account in (impostor, eve):
            change(
                horde.platform, "UPDATE users SET contact = 'eve@example.com' WHERE id = :id", id=account.id
            )
        patrons.subscription(email="eve@example.com")
        assert supporters.refresh(asking) == 0
        assert rows(asking) == {}
        # Moderators settle it by restricting the impostor, the operator by noting the account.
        change(
            horde.platform, "INSERT INTO user_roles (user_id, role) VALUES (:id, 'flagged')", id=impostor.id
        )
        assert supporters.refresh(asking) == 1
        change(horde.platform, "DELETE FROM user_roles")
        patrons.subscriptions[0]["metadata"] = {"horde_id": eve.alias}
        assert supporters.refresh(asking) == 1
        assert rows(asking) == {("stripe", eve.id): 75_000}

    def test_all_pages_are_read(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        accounts = [horde.account() for _ in range(7)]
        patrons.page = 2
        patrons.products += [{"id": f"prod_{n}", "name": "Sponsor"} for n in range(3, 9)]
        for n, account in enumerate(accounts):
            patrons.subscription({"horde_id": account.alias}, product=f"prod_{n + 2}")
        assert supporters.refresh(asking) == 7
        assert sorted(rows(asking).values()) == [0] + [1_500_000] * 6

    def test_what_cannot_be_read_is_left_out(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        ada = horde.account()
        patrons.subscriptions += [{"id": "a"}, {"id": "b", "status": "active", "items": None}]
        patrons.subscription({"horde_id": ada.alias}, product=["prod_1"])
        patrons.products += [{"id": [], "name": "Sponsor"}, {"id": "prod_3", "name": {}}]
        patrons.subscription({"horde_id": ada.alias})
        assert supporters.refresh(asking) == 1

    @pytest.mark.parametrize("last", [None, 7, {}, {"id": None}, {"id": ["a"]}])
    def test_a_list_that_cannot_be_read_on_changes_nothing(
        self, asking: Platform, patrons: Services, horde: Horde, last: Any
    ) -> None:
        patrons.subscription({"horde_id": horde.account().alias})
        supporters.refresh(asking)
        patrons.server.answer = reply(200, orjson.dumps({"data": [last], "has_more": True}))
        with unchanged(horde.platform):
            assert supporters.refresh(asking) == 0


class TestRefresh:
    def test_nobody_is_asked_without_keys(self, horde: Horde, patrons: Services) -> None:
        with unchanged(horde.platform):
            assert supporters.refresh(horde.platform) == 0
        assert patrons.server.received == []

    def test_lapsed_supporters_go(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        ada, bob = horde.account(), horde.account()
        patrons.member({"stable_id": ada.id})
        patrons.subscription({"horde_id": bob.alias})
        supporters.refresh(asking)
        patrons.members.clear()
        supporters.refresh(asking)
        assert rows(asking).keys() == {("stripe", bob.id)}

    def test_a_failure_changes_nothing(self, asking: Platform, patrons: Services, horde: Horde) -> None:
        patrons.member({"stable_id": horde.account().id})
        patrons.subscription({"horde_id": horde.account().alias})
        supporters.refresh(asking)
        patrons.broken = True
        with unchanged(horde.platform):
            assert supporters.refresh(asking) == 0

    @pytest.mark.parametrize("answer", [b"", b"no JSON", b"[]", b"{}", b'{"data": 7}'])
    def test_an_odd_answer_changes_nothing(
        self, asking: Platform, patrons: Services, horde: Horde, answer: bytes
    ) -> None:
        patrons.member({"stable_id": horde.account().id})
        supporters.refresh(asking)
        patrons.server.answer = reply(200, answer)
        with unchanged(horde.platform):
            supporters.refresh(asking)

    def test_the_secrets_are_sent_nowhere_else(
        self, asking: Platform, patrons: Services, horde: Horde
    ) -> None:
        patrons.server.answer = reply(302, Location=patrons.server.url("/elsewhere"))
        with unchanged(horde.platform):
            supporters.refresh(asking)
        assert [urlsplit(request.path).path for request in patrons.server.received] == [
            "/patreon/campaigns/77/members",
            "/stripe/products",
        ]

    def test_a_list_without_end(
        self, asking: Platform, patrons: Services, horde: Horde, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("horde.users.supporter_sources.MOST_PAGES", 3)
        endless = {"data": [], "meta": {"pagination": {"cursors": {"next": "again"}}}}
        patrons.server.answer = reply(200, orjson.dumps(endless))
        with unchanged(horde.platform):
            supporters.refresh(asking)

    def test_a_source_that_is_switched_off_is_forgotten(
        self, asking: Platform, patrons: Services, horde: Horde
    ) -> None:
        patrons.member({"stable_id": horde.account().id})
        supporters.refresh(asking)
        supporters.refresh(horde.platform)
        assert rows(horde.platform) == {}

    @pytest.mark.parametrize(
        "content",
        ["", "[patreon]", "no toml", "[patreon]\napi = 7\ntiers = []\n[stripe]\napi = ''\nproducts = {}"],
    )
    def test_tiers_that_cannot_be_read(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "tiers.toml"
        path.write_text(content)
        with pytest.raises(SupporterError, match=r"tiers\.toml"):
            read_tiers(path)
        with pytest.raises(SupporterError):
            read_tiers(tmp_path / "missing.toml")


class TestPrivileges:
    @pytest.fixture
    def supporter(self, horde: Horde) -> Account:
        account = horde.account(amount=1000)
        statement = "INSERT INTO supporters (source, user_id, kudos) VALUES ('stripe', :id, 0)"
        change(horde.platform, statement, id=account.id)
        return account

    def test_they_are_known(self, horde: Horde, supporter: Account) -> None:
        assert users.authenticate(horde.platform, supporter.key).supporter
        change(horde.platform, "DELETE FROM supporters")
        assert not users.authenticate(horde.platform, supporter.key).supporter

    def test_images_one_by_one(self, horde: Horde, supporter: Account) -> None:
        wanted = {"disable_batching": True, "params": {"n": 2}}
        assert horde.ask(supporter, **wanted).status_code == 202
        assert_refused(horde.ask(horde.account(amount=1000), **wanted), 400, "RequiresTrust")
