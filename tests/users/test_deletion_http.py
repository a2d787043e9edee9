"""Deleting accounts, changing one's mind, and what is left of an account that was wiped."""

from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from horde.generation import sweep
from horde.kudos import service as ledger
from horde.users import service as users
from horde.users import trust
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


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def user(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="User", amount=1000)


def delete(horde: Horde, user: Account | int | str, key: Account | str | None) -> TestResponse:
    number = user.id if isinstance(user, Account) else user
    return horde.call("DELETE", f"/users/{number}", key)


def deleted(horde: Horde, user: Account, key: Account) -> None:
    """An accepted DELETE."""
    response = delete(horde, user, key)
    assert (response.status_code, response.json) == (200, {"message": "OK"})


def is_deleted(horde: Horde, user: Account) -> bool:
    return bool(horde.call("GET", f"/users/{user.id}").json["deleted"])


def let_days_pass(horde: Horde, user: Account, *, marked: int | float, active: int | float) -> None:
    """As if the account had been marked, and last active, so many days ago."""
    change(
        horde.platform,
        "UPDATE user_roles SET granted = now() - make_interval(secs => :secs)"
        " WHERE user_id = :id AND role = 'deleted'",
        id=user.id,
        secs=marked * 86400,
    )
    change(
        horde.platform,
        "UPDATE users SET last_active = now() - make_interval(secs => :secs) WHERE id = :id",
        id=user.id,
        secs=active * 86400,
    )


def wiped(horde: Horde, user: Account, by: Account | None = None) -> None:
    """Mark and wipe an account."""
    by = by or user
    deleted(horde, user, by)
    let_days_pass(horde, user, marked=31, active=31)
    deleted(horde, user, by)


class TestWhoMay:
    def test_owners_and_moderators(self, horde: Horde, user: Account, moderator: Account) -> None:
        other = horde.account()
        deleted(horde, user, user)
        deleted(horde, other, moderator)
        assert is_deleted(horde, user)
        assert is_deleted(horde, other)

    def test_nobody_else(self, horde: Horde, user: Account, moderator: Account) -> None:
        stranger, admin = horde.account(Role.TRUSTED), horde.account(Role.ADMIN)
        with unchanged(horde.platform):
            assert_refused(delete(horde, user, stranger), 403, "NotUserOrMod")
            assert_refused(delete(horde, user, admin), 403, "NotUserOrMod")
            assert_refused(delete(horde, user, ANONYMOUS_KEY), 403, "AnonForbiddenUser")
            assert_refused(delete(horde, 0, ANONYMOUS_KEY), 403, "AnonForbiddenUser")
            assert_refused(delete(horde, 0, moderator), 403, "AnonForbiddenUser")
            for key in (moderator, stranger, admin):
                assert_refused(delete(horde, moderator, key), 403, "CannotDeleteMod")

    def test_the_order_of_checks(self, horde: Horde, user: Account, moderator: Account) -> None:
        with unchanged(horde.platform):
            response = delete(horde, "x", None)
            assert response.status_code == 400
            assert "apikey" in response.json["errors"]
            assert_refused(delete(horde, "x", "nobody's"), 404, "UserNotFound")
            assert_refused(delete(horde, 999999, "nobody's"), 401, "InvalidAPIKey")
            assert_refused(delete(horde, 999999, ANONYMOUS_KEY), 404, "UserNotFound")
            assert_refused(delete(horde, moderator, ANONYMOUS_KEY), 403, "AnonForbiddenUser")
            assert_refused(delete(horde, moderator, user), 403, "CannotDeleteMod")


class TestMarked:
    def test_it_stays_visible_and_comes_back(self, horde: Horde, user: Account) -> None:
        before = horde.call("GET", "/find_user", user).json
        deleted(horde, user, user)
        found = horde.call("GET", "/find_user", user).json
        assert {**found, "account_age": 0} == {**before, "account_age": 0, "deleted": True}
        response = horde.call("PUT", f"/users/{user.id}", user, json={"undelete": True})
        assert response.json == {"undeleted": True}
        assert not is_deleted(horde, user)
        response = horde.call("PUT", f"/users/{user.id}", user, json={"undelete": True})
        assert_refused(response, 400, "UserNotDeleted")
        assert horde.ask(user).status_code == 202

    def test_who_may_undo_it(self, horde: Horde, user: Account, moderator: Account) -> None:
        deleted(horde, user, user)
        for key in (ANONYMOUS_KEY, horde.account(Role.TRUSTED), horde.account(Role.ADMIN)):
            response = horde.call("PUT", f"/users/{user.id}", key, json={"undelete": True})
            assert_refused(response, 403, "NotModerator")
        response = horde.call("PUT", f"/users/{user.id}", moderator, json={"undelete": True})
        assert response.json == {"undeleted": True}

    def test_what_it_may_not_do(self, horde: Horde, user: Account) -> None:
        horde.pop(user)
        worker = horde.call("GET", "/workers/name/worker").json["id"]
        shared = horde.call("PUT", "/sharedkeys", user, json={}).json["id"]
        deleted(horde, user, user)
        application = {"institution": "School", "contact": "a@school.example", "purpose": "Lessons in art"}
        with unchanged(horde.platform):
            assert_refused(horde.ask(user), 403, "DeletedUser")
            assert_refused(horde.ask(shared), 403, "DeletedUser")
            assert_refused(horde.pop(user), 403, "DeletedUser")
            for method, path, body in (
                ("PUT", "/sharedkeys", {}),
                ("POST", "/teams", {"name": "Night Owls"}),
                ("POST", "/workers/messages", {"worker_id": worker, "message": "hello"}),
                ("POST", "/users/education", application),
            ):
                assert_refused(horde.call(method, path, user, json=body), 403, "DeletedUser")

    def test_what_it_may_still_do(self, horde: Horde, user: Account) -> None:
        horde.pop(user)
        request = horde.asked(user)
        deleted(horde, user, user)
        assert horde.call("GET", "/find_user", user).status_code == 200
        assert horde.status(request)["waiting"] == 1
        assert horde.call("GET", "/workers/name/worker").status_code == 200
        worker = horde.account(Role.TRUSTED)
        assert horde.submitted(worker, horde.popped(worker, "another")["id"]) > 0
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)


class TestWiping:
    @pytest.mark.parametrize(
        ("marked", "active"), [(0, 0), (0, 400), (400, 0), (29.99, 400), (400, 29.99), (31, 0)]
    )
    def test_not_before_a_month_of_both(
        self, horde: Horde, user: Account, moderator: Account, marked: float, active: float
    ) -> None:
        deleted(horde, user, user)
        let_days_pass(horde, user, marked=marked, active=active)
        with unchanged(horde.platform):
            for key in (user, moderator):
                assert_refused(delete(horde, user, key), 403, "CannotWipeActiveUser", "20")

    def test_long_idle_accounts_wait_too(self, horde: Horde, user: Account) -> None:
        change(horde.platform, "UPDATE users SET last_active = '2020-01-01'")
        deleted(horde, user, user)
        assert_refused(delete(horde, user, user), 403, "CannotWipeActiveUser")

    def test_it_disappears(self, horde: Horde, user: Account, moderator: Account) -> None:
        wiped(horde, user)
        with unchanged(horde.platform):
            assert_refused(horde.call("GET", f"/users/{user.id}", moderator), 404, "UserNotFound")
            assert_refused(horde.call("GET", "/find_user", user), 404, "UserNotFound")
            assert_refused(horde.ask(user), 401, "InvalidAPIKey")
            response = horde.call("PUT", f"/users/{user.id}", moderator, json={"undelete": True})
            assert_refused(response, 404, "UserNotFound")
            assert_refused(delete(horde, user, moderator), 404, "UserNotFound")
            response = horde.call("GET", f"/users/{user.id}/role_changes", moderator)
            assert_refused(response, 404, "UserNotFound")
        assert user.id not in {each["id"] for each in horde.call("GET", "/users").json}

    def test_who_it_belonged_to_is_forgotten(self, horde: Horde, user: Account) -> None:
        fields = {"contact": "me@example.com"}
        horde.call("PUT", f"/users/{user.id}", user, json=fields)
        change(horde.platform, "UPDATE users SET admin_comment = 'his cousin' WHERE id = :id", id=user.id)
        support = (
            "INSERT INTO supporters (source, user_id, kudos, name) VALUES ('test', :id, 500, 'His name')"
        )
        change(horde.platform, support, id=user.id)
        wiped(horde, user)
        assert scalar(horde.platform, "SELECT count(*) FROM supporters") == 0
        query = "SELECT users::text FROM users WHERE id = :id"
        row = scalar(horde.platform, query, id=user.id)
        for told in ("User", "me@example.com", "his cousin", users.key_hash(horde.platform.secret, user.key)):
            assert told not in row

    def test_the_books_stay(self, horde: Horde, user: Account) -> None:
        ledger.fold_all(horde.platform)
        before = horde.kudos(user.balance)
        entries = scalar(horde.platform, "SELECT count(*) FROM ledger_entries")
        wiped(horde, user)
        ledger.fold_all(horde.platform)
        assert trust.review(horde.platform) == 0
        assert horde.kudos(user.balance) == before
        assert scalar(horde.platform, "SELECT count(*) FROM ledger_entries") == entries
        assert_books_balance(horde.platform)

    def test_many_can_be_wiped(self, horde: Horde, moderator: Account) -> None:
        for _ in range(3):
            wiped(horde, horde.account(), moderator)
        query = "SELECT count(DISTINCT external_id) FROM users WHERE username = '<wiped>'"
        assert scalar(horde.platform, query) == 3

    def test_whoever_logs_in_again_gets_a_new_account(self, horde: Horde, user: Account) -> None:
        login = f"g_{uuid4().hex}"
        first, key = users.create_user(horde.platform, "Ada", external_id=login)
        mine = Account(first.id, key, first.alias, first.balance_account, first.escrow_account)
        wiped(horde, mine)
        second, _ = users.create_user(horde.platform, "Ada", external_id=login)
        assert second.id != first.id

    def test_workers_and_keys_go_and_what_others_have_stays(self, horde: Horde, user: Account) -> None:
        horde.pop(user)
        worker = horde.call("GET", "/workers/name/worker").json["id"]
        shared = horde.call("PUT", "/sharedkeys", user, json={}).json["id"]
        team = horde.call("POST", "/teams", user, json={"name": "Night Owls"}).json["id"]
        member = horde.account(Role.TRUSTED)
        horde.pop(member, "member")
        path = f"/workers/{horde.call('GET', '/workers/name/member').json['id']}"
        assert horde.call("PUT", path, member, json={"team": team}).status_code == 200
        wiped(horde, user)
        assert_refused(horde.call("GET", "/workers/name/worker"), 404, "WorkerNotFound")
        assert_refused(horde.call("GET", f"/workers/{worker}"), 404, "WorkerNotFound")
        assert_refused(horde.call("GET", f"/sharedkeys/{shared}"), 401, "InvalidAPIKey")
        assert_refused(horde.call("GET", "/find_user", shared), 404, "UserNotFound")
        assert_refused(horde.ask(shared), 401, "InvalidAPIKey")
        shown = horde.call("GET", f"/teams/{team}").json
        assert shown["creator"] == f"<wiped>#{user.id}"
        assert [each["name"] for each in shown["workers"]] == ["member"]

    def test_requests_that_know_the_worker_or_the_key_go_on(self, horde: Horde, user: Account) -> None:
        horde.pop(user)
        worker = horde.call("GET", "/workers/name/worker").json["id"]
        shared = horde.call("PUT", "/sharedkeys", user, json={}).json["id"]
        requests = [horde.asked(horde.account(), workers=[worker]), horde.asked(shared)]
        job = horde.popped(user)["id"]
        wiped(horde, user)
        assert_refused(horde.submit(user, job), 404, "InvalidJobID")
        change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
        sweep.abort_overdue_jobs(horde.platform)
        for request in requests:
            assert horde.check(request)["waiting"] == 1
            assert horde.status(request)["faulted"] is False
        helper = horde.account(Role.TRUSTED)
        assert horde.submitted(helper, horde.popped(helper, "helper")["id"]) > 0
        assert horde.check(requests[1])["done"] is True
        horde.cancel(requests[0])
        assert horde.check(requests[0])["done"] is True
        sweep.fold_records(horde.platform)
        ledger.fold_all(horde.platform)
        assert_books_balance(horde.platform)

    def test_applications_are_forgotten(self, horde: Horde, user: Account, moderator: Account) -> None:
        application = {"institution": "School", "contact": "a@school.example", "purpose": "Lessons in art"}
        assert horde.call("POST", "/users/education", user, json=application).status_code == 201
        wiped(horde, user)
        assert horde.call("GET", "/users/education", moderator).json == []

    def test_several_at_once(self, horde: Horde, user: Account, moderator: Account) -> None:
        """Two calls at the same time are not the mark and the wipe; of two wipes one comes too late."""
        answers = in_threads(4, lambda _: delete(horde, user, user).status_code)
        assert sorted(answers) == [200, 403, 403, 403]
        assert is_deleted(horde, user)
        let_days_pass(horde, user, marked=31, active=31)
        answers = in_threads(4, lambda _: delete(horde, user, moderator).status_code)
        assert sorted(answers) == [200, 404, 404, 404]

    def test_undone_and_marked_again_the_month_begins_again(self, horde: Horde, user: Account) -> None:
        deleted(horde, user, user)
        let_days_pass(horde, user, marked=400, active=400)
        horde.call("PUT", f"/users/{user.id}", user, json={"undelete": True})
        deleted(horde, user, user)
        assert_refused(delete(horde, user, user), 403, "CannotWipeActiveUser")
