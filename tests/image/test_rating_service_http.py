"""Ratings that a rating service accepts: what is paid for them, and what becomes of its refusals."""

import socket
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest

from horde.image import ratings
from horde.kudos import service as ledger
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.https_server import Answer, HttpsServer, https_server, reply
from tests.image.test_ratings_http import SOMETHING, Key, best_kept, kept, made, rate, rate_at_once, rated
from tests.support import (
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_refused,
    change,
    forget,
    make_settings,
    scalar,
    unchanged,
)


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of a trusted worker."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def requester(horde: Horde) -> Account:
    return horde.account(amount=500, username="Requester")


def made_by(horde: Horde, key: Key, makers: dict[str, Account]) -> tuple[str, list[str]]:
    """A finished request of `key`, and the ids of its images; one was made by each of these workers."""
    request, images = horde.asked(key, params={"n": len(makers)}), []
    for name, maker in makers.items():
        images.append(horde.popped(maker, name)["id"])
        horde.submitted(maker, images[-1])
    return request, images


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer) -> HttpsServer:
    """The rating service; it accepts everything until a test says otherwise."""
    module_server.received.clear()
    module_server.answer = reply(200, b'{"message": "OK"}')
    return module_server


def with_service(horde: Horde, server: HttpsServer, **values: Any) -> AbstractContextManager[Horde]:
    settings: dict[str, Any] = {
        "rating_service_url": server.url("/rate"),
        "outbound_networks": (ip_network("127.0.0.0/8"),),
        "outbound_ca_file": server.ca_file,
    }
    return another_process(horde, **settings | values)


@pytest.fixture
def serviced(horde: Horde, server: HttpsServer) -> Iterator[Horde]:
    """The horde with a rating service."""
    with with_service(horde, server) as process:
        yield process


class TestReward:
    def test_ratings_are_paid_to_the_requester(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, second) = made(serviced, owner, requester)
        before = serviced.kudos(requester.balance)
        given = [{"id": first.upper(), "rating": 3}, {"id": second, "rating": 10.0, "artifacts": 0}]
        response = serviced.call(
            "POST",
            f"/generate/rate/{request}",
            requester,
            {"Client-Agent": "program:1:me"},
            json={"ratings": given},
        )
        assert (response.status_code, response.json) == (200, {"reward": 15})
        assert serviced.kudos(requester.balance) - before == 15
        ledger.fold_all(serviced.platform)
        details = serviced.call("GET", "/find_user", requester).json["kudos_details"]
        assert details["awarded"] == 15
        assert_books_balance(serviced.platform)
        with serviced.platform.read() as db:
            (row,) = db.exec_driver_sql("SELECT * FROM ratings").mappings()
        assert {
            name: value for name, value in row.items() if name not in ("created", "request_id", "best")
        } == {
            "user_id": requester.id,
            "client_agent": "program:1:me",
            "ratings": [{"id": first, "rating": 3}, {"id": second, "rating": 10, "artifacts": 0}],
        }
        assert (str(row["request_id"]), str(row["best"])) == (request, second)

    def test_it_stays_below_what_the_request_cost(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        request, images = made(serviced, owner, requester)
        change(serviced.platform, "UPDATE jobs SET charged = 5")
        change(serviced.platform, "UPDATE requests SET tax = 2.34")
        before = serviced.kudos(requester.balance)
        given = [{"id": image, "rating": 5, "artifacts": 1} for image in images]
        assert rated(serviced, requester, request, ratings=given) == 11.34
        assert serviced.kudos(requester.balance) - before == Decimal("11.34")

    def test_a_request_that_cost_nothing_is_rated_for_nothing(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(serviced, owner, requester)
        change(serviced.platform, "UPDATE jobs SET charged = 0")
        change(serviced.platform, "UPDATE requests SET tax = 0.5")
        before = serviced.kudos(requester.balance)
        assert rated(serviced, requester, request, best=first) == 0
        assert (kept(serviced), serviced.kudos(requester.balance)) == (1, before)
        assert_books_balance(serviced.platform)

    def test_anonymous_ratings_are_kept_and_not_paid(self, serviced: Horde, owner: Account) -> None:
        request, (first, second) = made(serviced, owner, ANONYMOUS_KEY)
        assert_refused(rate(serviced, owner, request, best=first), 403, "Forbidden")
        assert rated(serviced, ANONYMOUS_KEY, request, best=second) == 0
        assert best_kept(serviced) == second
        assert scalar(serviced.platform, "SELECT count(*) FROM ledger_entries WHERE action = 'awarded'") == 0
        assert_refused(rate(serviced, ANONYMOUS_KEY, request, best=first), 400, "AestheticsAlreadyExist")
        assert_books_balance(serviced.platform)

    def test_nobody_gains_by_rating_what_their_own_worker_made(
        self, serviced: Horde, requester: Account
    ) -> None:
        def wealth() -> Decimal:
            return serviced.kudos(requester.balance) + serviced.kudos(requester.escrow)

        before = wealth()
        for _ in range(2):
            request = serviced.asked(requester, params={"n": 20, "width": 64, "height": 64, "steps": 1})
            images = serviced.popped(requester, amount=20)["ids"]
            for image in images:
                serviced.submitted(requester, image)
            given = [{"id": image, "rating": 8, "artifacts": 0} for image in images]
            assert rated(serviced, requester, request, ratings=given) == 0
        assert kept(serviced) == 2
        assert wealth() < before
        assert_books_balance(serviced.platform)

    def test_only_what_others_made_is_paid_for(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        makers = {"own": requester, "other": owner, "another": owner}
        earned = []
        for own, other, another, best in ((8, 6, None, None), (4, None, None, 1), (None, 4, None, 0)):
            request, images = made_by(serviced, requester, makers)
            values = zip(images, (own, other, another), strict=True)
            given = [{"id": image, "rating": value} for image, value in values if value]
            chosen = {} if best is None else {"best": images[best]}
            earned.append(rated(serviced, requester, request, ratings=given, **chosen))
        assert earned == [5, 15, 5]
        request, (own, other, _) = made_by(serviced, requester, makers)
        assert rated(serviced, requester, request, best=own) == 0
        request, (own, other, _) = made_by(serviced, requester, makers)
        assert rated(serviced, requester, request, best=other) == 15

    def test_what_the_own_worker_earned_is_not_given_back(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        request, (own, other) = made_by(serviced, requester, {"own": requester, "other": owner})
        change(serviced.platform, "UPDATE jobs SET charged = 90 WHERE id = :id", id=own)
        change(serviced.platform, "UPDATE jobs SET charged = 4 WHERE id = :id", id=other)
        given = [{"id": image, "rating": 8, "artifacts": 0} for image in (own, other)]
        assert rated(serviced, requester, request, ratings=given) == 4  # of 4 and the tax of 1

    def test_a_worker_that_was_deleted_still_was_ones_own(self, serviced: Horde, requester: Account) -> None:
        request, (image,) = made_by(serviced, requester, {"own": requester})
        change(serviced.platform, "DELETE FROM workers")
        assert rated(serviced, requester, request, ratings=[{"id": image, "rating": 8}]) == 0

    def test_many_ratings_at_once_are_paid_once(
        self, serviced: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(serviced, owner, requester)
        before = serviced.kudos(requester.balance)
        answers = rate_at_once(serviced, 10, requester, request, best=first)
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 9
        for answer in answers:
            if answer.status_code == 400:
                assert_refused(answer, 400, "AestheticsAlreadyExist")
        assert (kept(serviced), serviced.kudos(requester.balance) - before) == (1, 15)
        assert_books_balance(serviced.platform)


class TestService:
    def test_it_receives_the_whole_set(
        self, serviced: Horde, server: HttpsServer, owner: Account, requester: Account
    ) -> None:
        request, images = made(serviced, owner, requester)
        ledger.fold_all(serviced.platform)
        forget(serviced.platform)
        user = serviced.call("GET", f"/users/{requester.id}").json
        first, second = images
        given = [{"id": first, "rating": 9, "artifacts": 2}, {"id": second, "rating": 5}]
        response = serviced.call(
            "POST",
            f"/generate/rate/{request}",
            requester,
            {"Client-Agent": "program:1:me"},
            json={"ratings": given},
            environ_base={"REMOTE_ADDR": "203.0.113.7"},
        )
        assert response.json == {"reward": 15}
        (received,) = server.received
        assert (received.method, received.path) == ("POST", "/rate")
        body = orjson.loads(received.body)
        assert sorted(body.pop("all_set_ids")) == sorted(images)
        assert 0 <= body["user"].pop("account_age") - user["account_age"] <= 5
        assert body == {
            "set": request,
            "client_agent": "program:1:me",
            "user": {
                "username": requester.alias,
                "trusted": False,
                "kudos": user["kudos"],
                "kudos_accumulated": user["kudos_details"]["accumulated"],
                "ipaddr": "203.0.113.7",
            },
            "ratings": given,
            "best": first,
        }

    def test_nothing_is_locked_while_it_is_asked(
        self, serviced: Horde, server: HttpsServer, owner: Account, requester: Account
    ) -> None:
        held: list[int] = []

        def look(handler: BaseHTTPRequestHandler) -> None:
            pools = (serviced.platform.engine.pool, serviced.platform.reader.pool)
            held.extend(pool.checkedout() for pool in pools)  # type: ignore[attr-defined]
            reply(200)(handler)

        request, (first, _) = made(serviced, owner, requester)
        server.answer = look
        rated(serviced, requester, request, best=first)
        assert held == [0, 0]

    def test_it_is_not_asked_about_what_is_refused_here(
        self, serviced: Horde, server: HttpsServer, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(serviced, owner, requester)
        assert rate(serviced, owner, request, best=first).status_code == 403
        assert rate(serviced, requester, request, best=SOMETHING).status_code == 400
        assert server.received == []
        rated(serviced, requester, request, best=first)
        assert_refused(rate(serviced, requester, request, best=first), 400, "AestheticsAlreadyExist")
        assert len(server.received) == 1

    @pytest.mark.parametrize(
        ("answer", "rc", "words"),
        [
            (reply(403), "AestheticsAlreadyExist", ["before"]),
            (reply(403, b'{"message": "no"}'), "AestheticsAlreadyExist", ["before"]),
            (reply(500, b'{"message": "out of paper"}'), "AestheticsServerError", ["out of paper"]),
            (reply(400, b"[1]"), "AestheticsServerError", ["refused"]),
            (reply(400, b'{"message": 7}'), "AestheticsServerError", ["refused"]),
            (reply(500, b"<html>Oops</html>"), "AestheticsServerRejected", ["500"]),
            (reply(500), "AestheticsServerRejected", ["500"]),
            (reply(500, b'"' + b"a" * 100_000 + b'"'), "AestheticsServerRejected", ["500"]),
            (reply(302, Location="/elsewhere"), "InvalidAestheticAttempt", ["302"]),
        ],
    )
    def test_its_refusals(
        self,
        serviced: Horde,
        server: HttpsServer,
        owner: Account,
        requester: Account,
        answer: Answer,
        rc: str,
        words: list[str],
    ) -> None:
        request, (first, _) = made(serviced, owner, requester)
        server.answer = answer
        with unchanged(serviced.platform):
            assert_refused(rate(serviced, requester, request, best=first), 400, rc, *words)
        server.answer = reply(201)
        assert rated(serviced, requester, request, best=first) == 15

    def test_it_is_slow(
        self,
        serviced: Horde,
        server: HttpsServer,
        owner: Account,
        requester: Account,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(ratings, "SERVICE_SECONDS", 0.3)
        request, (first, _) = made(serviced, owner, requester)
        released = threading.Event()
        server.answer = lambda handler: released.wait(10) and None
        try:
            response = rate(serviced, requester, request, best=first)
        finally:
            released.set()
        assert_refused(response, 400, "AestheticsServerTimeout", "time")
        assert kept(serviced) == 0

    def test_it_is_down(self, horde: Horde, server: HttpsServer, owner: Account, requester: Account) -> None:
        request, (first, _) = made(horde, owner, requester)
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"https://localhost:{unused.getsockname()[1]}/"
            with with_service(horde, server, rating_service_url=url) as down:
                response = rate(down, requester, request, best=first)
        assert_refused(response, 400, "AestheticsServerDown", "reached")
        with with_service(horde, server, outbound_networks=()) as closed:
            assert_refused(rate(closed, requester, request, best=first), 400, "AestheticsServerDown")
        assert (kept(horde), server.received) == (0, [])

    def test_it_is_called_by_https_alone(self, tmp_path: Path) -> None:
        assert make_settings(tmp_path).rating_service_url is None
        with pytest.raises(ValueError, match="https://"):
            make_settings(tmp_path, rating_service_url="http://example.com/")

    def test_many_at_once_are_paid_once(
        self, serviced: Horde, server: HttpsServer, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(serviced, owner, requester)
        together = threading.Barrier(4)

        def wait_for_all(handler: BaseHTTPRequestHandler) -> None:
            together.wait(10)
            reply(200)(handler)

        server.answer = wait_for_all
        before = serviced.kudos(requester.balance)
        answers = rate_at_once(serviced, 4, requester, request, best=first)
        assert sorted(answer.status_code for answer in answers) == [200, 400, 400, 400]
        assert serviced.kudos(requester.balance) - before == 15
        assert_books_balance(serviced.platform)
