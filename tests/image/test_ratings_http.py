"""Rating images over HTTP: what is refused, in order, what is paid, and the operator's rating service."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from decimal import Decimal
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson
import pytest
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.image import ratings
from horde.kudos import service as ledger
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.https_server import Answer, HttpsServer, https_server, reply
from tests.support import (
    Account,
    Horde,
    another_process,
    assert_books_balance,
    assert_refused,
    change,
    forget,
    in_threads,
    make_settings,
    scalar,
    unchanged,
)

SOMETHING = "0d9c7f5e-1234-4abc-8def-0123456789ab"
Key = Account | str


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of a trusted worker."""
    return horde.account(Role.TRUSTED, username="Owner")


@pytest.fixture
def requester(horde: Horde) -> Account:
    return horde.account(amount=500, username="Requester")


def made(horde: Horde, owner: Account, key: Key, n: int = 2) -> tuple[str, list[str]]:
    """A finished request of `key`, and the ids of its images."""
    request = horde.asked(key, params={"n": n})
    images = horde.popped(owner, amount=n)["ids"]
    for image in images:
        horde.submitted(owner, image)
    return request, images


def rate(horde: Horde, key: Key | None, request: str, **payload: Any) -> TestResponse:
    return horde.call("POST", f"/generate/rate/{request}", key, json=payload)


def rated(horde: Horde, key: Key, request: str, **payload: Any) -> float:
    """The reward for accepted ratings."""
    response = rate(horde, key, request, **payload)
    assert response.status_code == 200, response.json
    assert response.json.keys() == {"reward"}
    return float(response.json["reward"])


def rate_at_once(horde: Horde, count: int, key: Account, request: str, **payload: Any) -> list[TestResponse]:
    """Answers to the same ratings sent `count` times at the same moment, from as many addresses."""

    def send(number: int) -> TestResponse:
        return horde.client.application.test_client().post(
            f"/api/v2/generate/rate/{request}",
            json=payload,
            headers={"apikey": key.key},
            environ_base={"REMOTE_ADDR": f"203.0.113.{number}"},
        )

    return in_threads(count, send)


def kept(horde: Horde) -> int:
    return int(scalar(horde.platform, "SELECT count(*) FROM ratings"))


def best_kept(horde: Horde) -> str | None:
    best = scalar(horde.platform, "SELECT best FROM ratings")
    return str(best) if best else None


class TestChecks:
    """Each test breaks the rule that it is about and some that are checked later."""

    @pytest.mark.parametrize("request_id", [SOMETHING, "unknown", "0" * 36])
    def test_an_unknown_request(self, horde: Horde, request_id: str) -> None:
        assert_refused(rate(horde, "garbage", request_id, best=SOMETHING), 404, "RequestNotFound", request_id)

    def test_an_unknown_key(self, horde: Horde, requester: Account) -> None:
        request = horde.asked(requester)
        assert_refused(rate(horde, "garbage", request, best=SOMETHING), 401, "InvalidAPIKey")

    def test_no_key(self, horde: Horde, requester: Account) -> None:
        response = rate(horde, None, horde.asked(requester), best=SOMETHING)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"apikey"}

    @pytest.mark.parametrize("role", [None, Role.MODERATOR])
    def test_somebody_elses_request(self, horde: Horde, requester: Account, role: Role | None) -> None:
        other = horde.account(*([role] if role else []))
        for caller, request in [
            (other, horde.asked(requester)),
            (ANONYMOUS_KEY, horde.asked(requester)),
            (other, horde.asked(ANONYMOUS_KEY)),
        ]:
            assert_refused(rate(horde, caller, request, best=SOMETHING), 403, "Forbidden", "requester")

    def test_an_unfinished_request(self, horde: Horde, owner: Account, requester: Account) -> None:
        request = horde.asked(requester, params={"n": 2})
        horde.submitted(owner, horde.popped(owner)["id"])
        assert_refused(rate(horde, requester, request, best=SOMETHING), 400, "AestheticsNotCompleted", "done")
        horde.popped(owner)
        assert_refused(rate(horde, requester, request, best=SOMETHING), 400, "AestheticsNotCompleted", "done")

    @pytest.mark.parametrize("rated_id", [SOMETHING, "0" * 36, "x" * 36])
    def test_ratings_of_unknown_images(
        self, horde: Horde, owner: Account, requester: Account, rated_id: str
    ) -> None:
        request, (first, _) = made(horde, owner, requester)
        given = [{"id": image, "rating": 5} for image in (first, first, rated_id)]
        response = rate(horde, requester, request, ratings=given, best=SOMETHING)
        assert_refused(response, 400, "ProcGenNotFound", rated_id)

    def test_an_image_of_another_request(self, horde: Horde, owner: Account, requester: Account) -> None:
        _, (other, _) = made(horde, owner, requester)
        request, _ = made(horde, owner, requester)
        response = rate(horde, requester, request, ratings=[{"id": other, "rating": 5}])
        assert_refused(response, 400, "ProcGenNotFound", other)

    def test_a_job_that_was_given_back(self, horde: Horde, owner: Account, requester: Account) -> None:
        request = horde.asked(requester)
        lost = horde.popped(owner)["id"]
        assert horde.submit(owner, lost, state="faulted").status_code == 200
        horde.submitted(owner, horde.popped(owner)["id"])
        response = rate(horde, requester, request, ratings=[{"id": lost, "rating": 5}])
        assert_refused(response, 400, "ProcGenNotFound", lost)

    @pytest.mark.parametrize("spelling", [str, str.upper])
    def test_an_image_rated_twice(
        self, horde: Horde, owner: Account, requester: Account, spelling: Callable[[str], str]
    ) -> None:
        request, (first, _) = made(horde, owner, requester)
        given = [{"id": first, "rating": 5}, {"id": spelling(first), "rating": 6}]
        response = rate(horde, requester, request, ratings=given, best=SOMETHING)
        assert_refused(response, 400, "AestheticsDuplicate", "twice")

    def test_an_unknown_best(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, images = made(horde, owner, requester)
        given = [{"id": image, "rating": 5} for image in images]
        assert_refused(
            rate(horde, requester, request, ratings=given, best=SOMETHING), 400, "ProcGenNotFound", SOMETHING
        )
        assert_refused(rate(horde, requester, request, best=SOMETHING), 400, "ProcGenNotFound", SOMETHING)

    @pytest.mark.parametrize("payload", [{}, {"ratings": []}])
    def test_nothing_said(
        self, horde: Horde, owner: Account, requester: Account, payload: dict[str, Any]
    ) -> None:
        request, _ = made(horde, owner, requester, n=1)
        assert_refused(rate(horde, requester, request, **payload), 400, "AestheticsMissing", "'best'")

    def test_the_best_of_one(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, (only,) = made(horde, owner, requester, n=1)
        assert_refused(rate(horde, requester, request, best=only), 400, "AestheticsSolo", "one image")

    def test_the_best_of_one_that_was_delivered(
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request = horde.asked(requester, params={"n": 2})
        only = horde.popped(owner)["id"]
        horde.submitted(owner, only)
        horde.cancel(request)
        assert_refused(rate(horde, requester, request, best=only), 400, "AestheticsSolo", "one image")
        assert rated(horde, requester, request, ratings=[{"id": only, "rating": 5}]) == 5

    def test_a_best_that_contradicts_a_tie(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, (first, second, third, fourth) = made(horde, owner, requester, n=4)
        given = [{"id": first, "rating": 9}, {"id": second, "rating": 9}, {"id": third, "rating": 8}]
        for best in (third, fourth):
            response = rate(horde, requester, request, ratings=given, best=best)
            assert_refused(response, 400, "AestheticsConfused", "2", "9")
        rated(horde, requester, request, ratings=given, best=second)
        assert best_kept(horde) == second

    def test_a_second_rating(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, (first, second) = made(horde, owner, requester)
        rated(horde, requester, request, best=first)
        assert_refused(rate(horde, requester, request), 400, "AestheticsMissing")
        before = horde.kudos(requester.balance)
        for payload in ({"best": first}, {"best": second}, {"ratings": [{"id": first, "rating": 1}]}):
            response = rate(horde, requester, request, **payload)
            assert_refused(response, 400, "AestheticsAlreadyExist", "before")
        assert (horde.kudos(requester.balance), best_kept(horde)) == (before, first)

    @pytest.mark.parametrize(
        ("payload", "field"),
        [
            ({"best": "x" * 35}, "best"),
            ({"best": "x" * 37}, "best"),
            ({"best": None}, "best"),
            ({"ratings": {}}, "ratings"),
            ({"ratings": [{"rating": 5}]}, "ratings.0.id"),
            ({"ratings": [{"id": "x" * 35, "rating": 5}]}, "ratings.0.id"),
            ({"ratings": [{"id": "x" * 37, "rating": 5}]}, "ratings.0.id"),
            ({"ratings": [{"id": SOMETHING}]}, "ratings.0.rating"),
            *(
                ({"ratings": [{"id": SOMETHING, "rating": value}]}, "ratings.0.rating")
                for value in (0, 11, 5.5)
            ),
            *(
                ({"ratings": [{"id": SOMETHING, "rating": 5, "artifacts": value}]}, "ratings.0.artifacts")
                for value in (-1, 6, "2")
            ),
        ],
    )
    def test_what_does_not_fit_the_schema(self, horde: Horde, payload: dict[str, Any], field: str) -> None:
        response = rate(horde, ANONYMOUS_KEY, SOMETHING, **payload)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {field}

    def test_what_is_refused_leaves_no_trace(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, (first, _) = made(horde, owner, requester)
        with unchanged(horde.platform):
            for key, payload in [
                (ANONYMOUS_KEY, {"best": first}),
                (requester, {"best": SOMETHING}),
                (requester, {}),
            ]:
                assert rate(horde, key, request, **payload).status_code in (400, 403)

    def test_five_a_minute_for_each_request(self, horde: Horde) -> None:
        def call(request: str) -> int:
            return horde.client.post(f"/api/v2/generate/rate/{request}", json={}).status_code

        assert [call(SOMETHING) for _ in range(6)] == [400] * 5 + [429]
        assert call("unknown") == 400


class TestReward:
    def test_ratings_are_paid_to_the_requester(
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, second) = made(horde, owner, requester)
        before = horde.kudos(requester.balance)
        given = [{"id": first.upper(), "rating": 3}, {"id": second, "rating": 10.0, "artifacts": 0}]
        response = horde.call(
            "POST",
            f"/generate/rate/{request}",
            requester,
            {"Client-Agent": "program:1:me"},
            json={"ratings": given},
        )
        assert (response.status_code, response.json) == (200, {"reward": 15})
        assert horde.kudos(requester.balance) - before == 15
        ledger.fold_all(horde.platform)
        details = horde.call("GET", "/find_user", requester).json["kudos_details"]
        assert details["awarded"] == 15
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
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
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request, images = made(horde, owner, requester)
        change(horde.platform, "UPDATE jobs SET charged = 5")
        change(horde.platform, "UPDATE requests SET tax = 2.34")
        before = horde.kudos(requester.balance)
        given = [{"id": image, "rating": 5, "artifacts": 1} for image in images]
        assert rated(horde, requester, request, ratings=given) == 11.34
        assert horde.kudos(requester.balance) - before == Decimal("11.34")

    def test_a_request_that_cost_nothing_is_rated_for_nothing(
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(horde, owner, requester)
        change(horde.platform, "UPDATE jobs SET charged = 0")
        change(horde.platform, "UPDATE requests SET tax = 0.5")
        before = horde.kudos(requester.balance)
        assert rated(horde, requester, request, best=first) == 0
        assert (kept(horde), horde.kudos(requester.balance)) == (1, before)
        assert_books_balance(horde.platform)

    def test_anonymous_ratings_are_kept_and_not_paid(self, horde: Horde, owner: Account) -> None:
        request, (first, second) = made(horde, owner, ANONYMOUS_KEY)
        assert_refused(rate(horde, owner, request, best=first), 403, "Forbidden")
        assert rated(horde, ANONYMOUS_KEY, request, best=second) == 0
        assert best_kept(horde) == second
        assert scalar(horde.platform, "SELECT count(*) FROM ledger_entries WHERE action = 'awarded'") == 0
        assert_refused(rate(horde, ANONYMOUS_KEY, request, best=first), 400, "AestheticsAlreadyExist")
        assert_books_balance(horde.platform)

    def test_many_ratings_at_once_are_paid_once(
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, _) = made(horde, owner, requester)
        before = horde.kudos(requester.balance)
        answers = rate_at_once(horde, 10, requester, request, best=first)
        assert sorted(answer.status_code for answer in answers) == [200] + [400] * 9
        for answer in answers:
            if answer.status_code == 400:
                assert_refused(answer, 400, "AestheticsAlreadyExist")
        assert (kept(horde), horde.kudos(requester.balance) - before) == (1, 15)
        assert_books_balance(horde.platform)

    def test_ratings_outlive_the_request(self, horde: Horde, owner: Account, requester: Account) -> None:
        request, (first, _) = made(horde, owner, requester)
        rated(horde, requester, request, best=first)
        change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
        change(horde.platform, "UPDATE jobs SET finished = now() - interval '1 day'")
        assert sweep.expire_requests(horde.platform) == 1
        assert_refused(rate(horde, requester, request, best=first), 404, "RequestNotFound")
        assert best_kept(horde) == first
        assert_books_balance(horde.platform)


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
