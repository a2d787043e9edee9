"""Rating images over HTTP: what is refused, in order, what is paid, and the operator's rating service."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    in_threads,
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
        rated(horde, requester, request, ratings=[{"id": only, "rating": 5}])

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


class TestKeeping:
    def test_without_a_rating_service_nothing_is_paid(
        self, horde: Horde, owner: Account, requester: Account
    ) -> None:
        request, (first, second) = made(horde, owner, requester)
        before = horde.kudos(requester.balance)
        given = [{"id": first, "rating": 9, "artifacts": 1}, {"id": second, "rating": 3}]
        assert rated(horde, requester, request, ratings=given) == 0
        assert (kept(horde), best_kept(horde), horde.kudos(requester.balance)) == (1, first, before)
        assert_refused(rate(horde, requester, request, best=second), 400, "AestheticsAlreadyExist")
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
