"""What nobody should send about accounts, and calls that race each other."""

import random
from typing import Any
from urllib.parse import quote

import pytest
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.users import trust
from horde.users.rules import Role
from horde.workers import conduct, heartbeats
from tests.support import (
    Account,
    Horde,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    in_threads,
    scalar,
    unchanged,
)

NUMBERS = [
    "٣", "\uff11", "²", "Ⅷ", "+1", "-0", "1.0", "1e0", "0x1", "1_0", " 1", "1 ", "1\0", "\0", "1\n", "1#1",
    "' OR 1=1 --", "9" * 18, "9" * 19, str(2**63), str(2**64 + 1), "9" * 400, "null", "true",
]  # fmt: skip
"""What is no account's number, or too high."""


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, Role.ADMIN, username="Moderator")


@pytest.fixture
def user(horde: Horde) -> Account:
    return horde.account(amount=100, username="User")


def send(horde: Horde, key: Account, user: Account, body: str | bytes) -> TestResponse:
    """PUT users/{id} of just these bytes."""
    return horde.call("PUT", f"/users/{user.id}", key, data=body, content_type="application/json")


class TestNumbers:
    @pytest.mark.parametrize("number", NUMBERS)
    def test_no_such_account(self, horde: Horde, moderator: Account, number: str) -> None:
        path = f"/users/{quote(number, safe='')}"
        with unchanged(horde.platform):
            for method, rest in (
                ("GET", ""),
                ("PUT", ""),
                ("DELETE", ""),
                ("GET", "/role_changes"),
                ("GET", "/ledger"),
            ):
                response = horde.call(method, path + rest, moderator, json={"trusted": True})
                assert_refused(response, 404, "UserNotFound")

    def test_a_slash_leads_elsewhere(self, horde: Horde, moderator: Account) -> None:
        for path in ("/users/", "/users//", "/users/1/2", "/users/..%2f1"):
            assert horde.call("GET", path, moderator).status_code == 404


BODIES = [
    "[]", '"x"', "1", "null", "", " ", "{", '{"kudos":}', '{"kudos": NaN}', '{"kudos": Infinity}',
    "{'kudos': 1}",
    '{"kudos": 1e999}', '{"kudos": -1e999}', '{"monthly_kudos": 1e999}', '{"monthly_kudos": 1.5}',
    '{"monthly_kudos": true}', '{"monthly_kudos": 1' + "0" * 500 + "}", '{"kudos": 1' + "0" * 500 + "}",
    '{"concurrency": true}', '{"concurrency": 5.5}', '{"concurrency": [5]}', '{"concurrency": {"a": 5}}',
    '{"worker_invited": 4e9}', '{"usage_multiplier": true}', '{"usage_multiplier": 1e-400}', '{"trusted": 1}',
    '{"trusted": "true"}', '{"trusted": [true]}', '{"undelete": 1}', '{"generate_proxy_passkey": null}',
    '{"username": ["a"]}', '{"username": {"$ne": ""}}', '{"username": "a\\u0000b"}',
    '{"contact": "abcde\\u0000"}',
    '{"admin_comment": "abcde\\u0000"}', '{"username": "\\ud800abc"}', '{"username": "abc\\udfff"}',
    '{"x": ' + "[" * 5000 + "]" * 5000 + "}", b"\xff\xfe{}", b'{"username": "\xff\xff\xff"}', b"\x00",
]  # fmt: skip


class TestBodies:
    @pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
    def test_that_do_not_fit(
        self, horde: Horde, moderator: Account, user: Account, body: str | bytes
    ) -> None:
        with unchanged(horde.platform):
            response = send(horde, moderator, user, body)
        assert response.status_code == 400, response.data
        assert response.json["message"]
        assert response.json["rc"] if "errors" not in response.json else response.json["errors"]

    def test_of_two_values_the_last_counts(self, horde: Horde, moderator: Account, user: Account) -> None:
        response = send(
            horde, moderator, user, '{"kudos": 5, "concurrency": 1, "kudos": 7, "concurrency": 2}'
        )
        assert response.json == {"new_kudos": 107, "concurrency": 2}

    def test_long_ones(self, horde: Horde, moderator: Account, user: Account) -> None:
        body = '{"contact": "' + "x" * 10**6 + '"}'
        assert set(send(horde, moderator, user, body).json["errors"]) == {"contact"}
        many = ", ".join(f'"unheard_of_{number}": {number}' for number in range(50_000))
        assert_refused(send(horde, moderator, user, f"{{{many}}}"), 400, "NoUserModSelected")

    def test_whole_numbers_written_as_floats(self, horde: Horde, moderator: Account, user: Account) -> None:
        response = send(horde, moderator, user, '{"concurrency": 5.0, "monthly_kudos": 1e3, "kudos": -1.99}')
        assert response.json == {"new_kudos": 1099, "monthly_kudos": 1000, "concurrency": 5}


class TestTexts:
    """They are kept as plain text, without what nobody sees."""

    @pytest.mark.parametrize(
        ("sent", "stored"),
        [
            ("<script>alert(1)</script>", "<script>alert(1)</script>"),
            ("<b>bold</b>&amp;'\"", "<b>bold</b>&amp;'\""),
            ("abc\u202edef\u2066ghi", "abcdefghi"),
            ("a\u200bb\u200dc\ufeffd\u00ade", "abcde"),
            ("  a\tb\r\nc\u2028d e ", "a b c d e"),
            ("\x1b[31mred\x07\x7f", "[31mred"),
            ("{{ 7 * 7 }}{% x %}", "{{ 7 * 7 }}{% x %}"),
            ("Zoë 山田 🦊 ünï", "Zoë 山田 🦊 ünï"),
            ("%s %d %(x)s", "%s %d %(x)s"),
        ],
    )
    @pytest.mark.parametrize("field", ["username", "contact"])
    def test_names_and_contacts(
        self, horde: Horde, moderator: Account, user: Account, field: str, sent: str, stored: str
    ) -> None:
        response = horde.call("PUT", f"/users/{user.id}", user, json={field: sent})
        assert response.json == {field: stored}
        shown = horde.call("GET", f"/users/{user.id}", moderator).json
        assert shown[field] == (f"{stored}#{user.id}" if field == "username" else stored)

    @pytest.mark.parametrize("field", ["username", "contact"])
    @pytest.mark.parametrize("sent", ["\u200b" * 6, "\u202e\u202c\u2066\u2069\ufeff", "\u2028" * 5])
    def test_nothing_to_be_seen(self, horde: Horde, user: Account, field: str, sent: str) -> None:
        with unchanged(horde.platform):
            response = horde.call("PUT", f"/users/{user.id}", user, json={field: sent})
            assert response.status_code == 400

    @pytest.mark.parametrize("field", ["username", "contact"])
    def test_words_do_not_hide(self, horde: Horde, user: Account, field: str) -> None:
        rc = {"username": "ProfaneUserName", "contact": "ProfaneUserContact"}[field]
        for sent in ("holy sh\u200bit", "holy s\u00adh\u2060it", "holy SHIT"):
            assert_refused(horde.call("PUT", f"/users/{user.id}", user, json={field: sent}), 400, rc)


class TestRaces:
    def test_changes_of_other_fields_are_kept(self, horde: Horde, moderator: Account, user: Account) -> None:
        fields: list[dict[str, Any]] = [
            {"concurrency": 77},
            {"worker_invited": 5},
            {"username": "Renamed"},
            {"contact": "me@example.com"},
            {"admin_comment": "a note of ours"},
            {"vpn": True, "special": True},
            {"customizer": True},
            {"kudos": 10},
            {"monthly_kudos": 10},
            {"usage_multiplier": 2.5},
        ]
        answers = in_threads(
            len(fields),
            lambda n: horde.call("PUT", f"/users/{user.id}", moderator, json=fields[n]).status_code,
        )
        assert answers == [200] * len(fields)
        shown = horde.call("GET", f"/users/{user.id}", moderator).json
        for name in (
            "concurrency",
            "worker_invited",
            "contact",
            "admin_comment",
            "vpn",
            "special",
            "customizer",
        ):
            assert shown[name] == next(each[name] for each in fields if name in each)
        assert shown["username"] == f"Renamed#{user.id}"
        assert (shown["kudos"], shown["monthly_kudos"]["amount"]) == (120, 10)

    def test_deleting_while_workers_pop(self, horde: Horde, moderator: Account) -> None:
        owner = horde.account(Role.TRUSTED, username="Owner")
        requests = [horde.asked(moderator) for _ in range(6)]
        horde.pop(owner, "worker 0")

        def work(number: int) -> int:
            if number == 3:
                return horde.call("DELETE", f"/users/{owner.id}", owner).status_code
            return horde.pop(owner, f"worker {number % 3}").status_code

        answers = in_threads(8, work)
        assert set(answers) <= {200, 403}
        assert answers[3] == 200
        assert_refused(horde.pop(owner, "worker 0"), 403, "DeletedUser")
        for request in requests:
            assert horde.check(request)["faulted"] is False
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_deleting_and_undoing_it(self, horde: Horde, moderator: Account, user: Account) -> None:
        """However they mix, each change of the role begins where the one before ended."""

        def work(number: int) -> int:
            path = f"/users/{user.id}"
            if number % 2:
                return horde.call("DELETE", path, user).status_code
            return horde.call("PUT", path, user, json={"undelete": True}).status_code

        for _ in range(3):
            assert set(in_threads(8, work)) <= {200, 400, 403}
        changes = horde.call("GET", f"/users/{user.id}/role_changes", moderator).json
        held = [each["to"] for each in reversed(changes)]
        assert held == [number % 2 == 0 for number in range(len(held))]
        assert horde.call("GET", f"/users/{user.id}").json["deleted"] is held[-1]

    def test_wiping_and_undoing_it(self, horde: Horde, moderator: Account) -> None:
        """Either it is wiped or it stays, and nothing in between."""
        for _ in range(4):
            user = horde.account(username="User")
            horde.call("DELETE", f"/users/{user.id}", user)
            change(horde.platform, "UPDATE user_roles SET granted = now() - interval '31 days'")
            change(horde.platform, "UPDATE users SET last_active = now() - interval '31 days'")

            def work(number: int, user: Account = user) -> int:
                if number % 2:
                    return horde.call("DELETE", f"/users/{user.id}", moderator).status_code
                return horde.call("PUT", f"/users/{user.id}", moderator, json={"undelete": True}).status_code

            answers = in_threads(4, work)
            assert set(answers) <= {200, 400, 403, 404}
            shown = horde.call("GET", f"/users/{user.id}")
            alive = scalar(horde.platform, "SELECT wiped IS NULL FROM users WHERE id = :id", id=user.id)
            assert shown.status_code == (200 if alive else 404)
            found = horde.call("GET", "/find_user", user)
            assert found.status_code == (200 if alive else 404)

    def test_wiping_with_jobs_under_way(self, horde: Horde, moderator: Account) -> None:
        """Results that arrive at the same moment are paid or refused, and the request goes on either way."""
        for _ in range(3):
            owner = horde.account(Role.TRUSTED, username="Owner")
            requests = [horde.asked(moderator) for _ in range(3)]
            jobs = [horde.popped(owner, f"worker {number} of {owner.id}")["id"] for number in range(3)]
            horde.call("DELETE", f"/users/{owner.id}", owner)
            change(
                horde.platform,
                "UPDATE user_roles SET granted = now() - interval '31 days' WHERE role = 'deleted'",
            )
            change(horde.platform, "UPDATE users SET last_active = now() - interval '31 days'")
            calls = [*range(4)]
            random.shuffle(calls)

            def work(
                number: int, owner: Account = owner, jobs: list[str] = jobs, calls: list[int] = calls
            ) -> int:
                place = calls[number]
                if place == 3:
                    return horde.call("DELETE", f"/users/{owner.id}", moderator).status_code
                return horde.submit(owner, jobs[place]).status_code

            answers = dict(zip(calls, in_threads(4, work), strict=True))
            assert answers[3] in (200, 403)
            assert {answers[place] for place in range(3)} <= {200, 401, 404}
            change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
            sweep.abort_overdue_jobs(horde.platform)
            for place, request in enumerate(requests):
                checked = horde.check(request)
                assert checked["finished"] + checked["waiting"] == 1, (answers, place)
                horde.cancel(request)
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_all_at_once(self, horde: Horde, moderator: Account) -> None:
        """An account is changed by everybody while it works; nobody waits for somebody who waits for them."""
        owner = horde.account(Role.SERVICE, username="Owner", amount=1000)
        for number in range(3):
            horde.pop(owner, f"worker {number}")
        for _ in range(30):
            horde.asked(moderator)
        path = f"/users/{owner.id}"

        def works(number: int) -> list[int]:
            seen = []
            for _ in range(6):
                popped = horde.pop(owner, f"worker {number}", max_pixels=10**8)
                seen.append(popped.status_code)
                if popped.status_code == 200 and popped.json["id"]:
                    seen.append(horde.submit(owner, popped.json["id"]).status_code)
            return seen

        def changes(number: int) -> list[int]:
            fields: list[dict[str, Any]] = [
                {"trusted": number % 2 == 0, "reset_suspicion": True},
                {"generate_proxy_passkey": True, "reset_suspicion": True},
                {"flagged": True, "kudos": 5},
                {"flagged": False, "username": f"Owner {number}"},
                {"education": number % 2 == 0, "monthly_kudos": 1},
            ]
            return [horde.call("PUT", path, moderator, json=each).status_code for each in fields * 2]

        def deletes(_: int) -> list[int]:
            seen = []
            for _ in range(6):
                seen.append(horde.call("DELETE", path, owner).status_code)
                seen.append(horde.call("PUT", path, owner, json={"undelete": True}).status_code)
            return seen

        def books(_: int) -> list[int]:
            for _ in range(6):
                sweep.fold_records(horde.platform)
                conduct.judge_dropped_jobs(horde.platform)
                sweep.measure_speeds(horde.platform)
                heartbeats.fold_heartbeats(horde.platform)
                ledger.fold_all(horde.platform)
                trust.review(horde.platform)
            return []

        parts = [works, works, works, changes, changes, deletes, books]
        answers = in_threads(len(parts), lambda number: parts[number](number))
        assert {status for seen in answers for status in seen} <= {200, 400, 403}
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
            assert_queue_consistent(db)
