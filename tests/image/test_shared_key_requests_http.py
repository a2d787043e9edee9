"""Image requests with shared keys: whose they are, what they may cost, and what is left of the key."""

from decimal import Decimal
from typing import Any

import pytest

from horde.generation import sweep
from horde.generation.rules import rank
from horde.kudos import service as ledger
from horde.users.rules import Role
from tests.support import (
    FLUX,
    MODEL,
    PICTURE,
    Account,
    Horde,
    assert_books_balance,
    assert_queue_consistent,
    assert_refused,
    change,
    forget,
    in_threads,
    scalar,
    unchanged,
)

LARGE = {"params": {"width": 2048, "height": 1024}}
FREE = {"width": 1024, "height": 1024, "steps": 40}
"""As much as is free of upfront kudos."""


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Who shares kudos."""
    return horde.account(amount=1000, username="Owner")


@pytest.fixture
def worker(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Worker")


def shared(horde: Horde, owner: Account, **limits: Any) -> str:
    """A new key of the owner's."""
    response = horde.call("PUT", "/sharedkeys", owner, json=limits)
    assert response.status_code == 200, response.json
    return str(response.json["id"])


def state(horde: Horde, key: str) -> tuple[Decimal, Decimal]:
    """Kudos left of a key and spent with it, once all debits are folded."""
    ledger.fold_all(horde.platform)
    forget(horde.platform)
    with horde.platform.read() as db:
        row = db.exec_driver_sql("SELECT kudos, utilized FROM shared_keys WHERE id = %s", (key,)).one()
    return Decimal(row.kudos), Decimal(row.utilized)


def priority(horde: Horde, request: str) -> Decimal:
    """Kudos with which a request entered the queue, within a few of them."""
    row = scalar(horde.platform, "SELECT rank FROM requests WHERE id = :id", id=request)
    entered = scalar(
        horde.platform, "SELECT extract(epoch FROM created) FROM requests WHERE id = :id", id=request
    )
    return Decimal(rank(0, float(entered)) - row) / 1_000_000


def cost(horde: Horde, owner: Account | str, **fields: Any) -> float:
    return float(horde.ask(owner, dry_run=True, **fields).json["kudos"])


def deliver(horde: Horde, worker: Account, **offer: Any) -> None:
    """Make everything that waits."""
    while (job := horde.pop(worker, **offer).json)["id"]:
        horde.submitted(worker, job["id"])


class TestOwners:
    """A request with a shared key is its owner's in every respect."""

    def test_they_pay_and_are_served_in_their_turn(self, horde: Horde, owner: Account) -> None:
        poor = horde.asked(horde.account(amount=100))
        request = horde.asked(shared(horde, owner))
        forget(horde.platform)
        assert [horde.check(each)["queue_position"] for each in (request, poor)] == [1, 2]
        assert priority(horde, request) == pytest.approx(1000, abs=5)
        assert (
            scalar(horde.platform, "SELECT account_id FROM requests WHERE id = :id", id=request)
            == owner.balance
        )
        assert horde.kudos(owner.balance) == 999

    def test_what_trust_allows(self, horde: Horde, owner: Account) -> None:
        fields = {"disable_batching": True, "params": {"n": 2}}
        assert_refused(horde.ask(shared(horde, owner), **fields), 400, "RequiresTrust")
        trusted = horde.account(Role.TRUSTED, amount=100)
        horde.asked(shared(horde, trusted), **fields)

    def test_special_models(self, horde: Horde, owner: Account) -> None:
        special = horde.account(Role.SPECIAL, amount=100)
        fields = {"models": [f"horde_special::{special.alias}"], "params": {"special": {"a": {"b": 1}}}}
        horde.asked(shared(horde, special), **fields)
        assert_refused(horde.ask(shared(horde, owner), **fields), 403, "SpecialModelNeedsSpecialUser")

    def test_owners_to_be_deleted(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner)
        change(horde.platform, "INSERT INTO user_roles (user_id, role) VALUES (:id, 'deleted')", id=owner.id)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key), 403, "DeletedUser")

    def test_one_limit_of_waiting_images_for_the_owner_and_all_keys(
        self, horde: Horde, owner: Account
    ) -> None:
        keys = [shared(horde, owner) for _ in range(2)]
        horde.asked(owner, params={"n": 10})
        horde.asked(keys[0], params={"n": 10})
        horde.asked(keys[1], params={"n": 10})
        with unchanged(horde.platform):
            for key in (owner, *keys):
                assert_refused(horde.ask(key), 429, "TooManyPrompts", "30")

    def test_their_own_worker_serves_it_though_it_is_in_maintenance(
        self, horde: Horde, owner: Account
    ) -> None:
        horde.pop(owner)
        change(horde.platform, "UPDATE workers SET paused = true")
        answer = horde.ask(shared(horde, owner)).json
        assert "explain" not in answer
        assert horde.check(answer["id"])["is_possible"]
        assert horde.popped(owner)["id"]

    def test_what_must_be_paid_upfront_is_set_aside_of_their_kudos(
        self, horde: Horde, owner: Account
    ) -> None:
        request = horde.asked(shared(horde, owner), slow_workers=False)
        assert (
            scalar(horde.platform, "SELECT account_id FROM reservations WHERE request_id = :id", id=request)
            == owner.balance
        )
        key = shared(horde, horde.account(), kudos=-1)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key, slow_workers=False), 403, "KudosUpfront", "slow_workers")


class TestUsability:
    @pytest.fixture
    def empty(self, horde: Horde, owner: Account) -> str:
        key = shared(horde, owner)
        change(horde.platform, "UPDATE shared_keys SET kudos = 0, utilized = 5000")
        return key

    def test_an_empty_key_with_a_downgrade_is_anonymous_and_last(
        self, horde: Horde, owner: Account, worker: Account, empty: str
    ) -> None:
        request = horde.asked(empty, allow_downgrade=True, prompt="last")
        horde.asked(prompt="first")
        assert scalar(horde.platform, "SELECT user_id FROM requests WHERE id = :id", id=request) == 0
        assert priority(horde, request) == pytest.approx(-50, abs=5)
        assert [horde.popped(worker)["payload"]["prompt"] for _ in range(2)] == ["first", "last"]

    def test_then_neither_the_owner_nor_the_key_pays(
        self, horde: Horde, owner: Account, worker: Account, empty: str
    ) -> None:
        horde.asked(empty, allow_downgrade=True)
        deliver(horde, worker)
        assert state(horde, empty) == (0, 5000)
        assert horde.kudos(owner.balance) == 1000
        assert_books_balance(horde.platform)

    def test_an_educators_empty_key_is_not_served_as_anonymous(self, horde: Horde) -> None:
        """What holds for the school would not hold any more."""
        key = shared(horde, horde.account(Role.EDUCATION, amount=1000), kudos=0)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key, allow_downgrade=True), 403, "SharedKeyEmpty")

    def test_then_the_limits_of_anonymous_hold(self, horde: Horde, empty: str) -> None:
        change(horde.platform, "UPDATE users SET concurrency = 2 WHERE id = 0")
        for _ in range(2):
            horde.asked(empty, allow_downgrade=True)
        with unchanged(horde.platform):
            assert_refused(horde.ask(empty, allow_downgrade=True), 429, "TooManyPrompts")

    def test_an_expired_key_is_no_use_even_then(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner)
        change(horde.platform, "UPDATE shared_keys SET expires = now() - interval '1 second'")
        with unchanged(horde.platform):
            for fields in ({}, {"allow_downgrade": True}, {"dry_run": True}):
                assert_refused(horde.ask(key, **fields), 403, "SharedKeyExpired")

    def test_an_empty_key_has_no_quote(self, horde: Horde, empty: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.ask(empty, dry_run=True), 403, "SharedKeyEmpty")

    def test_a_deleted_key_is_unknown_at_once(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner)
        horde.asked(key)
        assert horde.call("DELETE", f"/sharedkeys/{key}", owner).status_code == 200
        with unchanged(horde.platform):
            for fields in ({}, {"allow_downgrade": True}, {"dry_run": True}):
                assert_refused(horde.ask(key, **fields), 401, "InvalidAPIKey")

    def test_a_key_may_be_used_again_once_it_has_kudos(
        self, horde: Horde, owner: Account, empty: str
    ) -> None:
        assert_refused(horde.ask(empty), 403, "SharedKeyEmpty")
        horde.call("PATCH", f"/sharedkeys/{empty}", owner, json={"kudos": 100})
        horde.asked(empty)


class TestWhatIsLeft:
    def test_up_to_the_last_kudo(self, horde: Horde, owner: Account) -> None:
        horde.asked(shared(horde, owner))
        exact = scalar(horde.platform, "SELECT hold FROM shared_key_spending")
        enough, short = (shared(horde, owner) for _ in range(2))
        for key, kudos in ((enough, exact), (short, exact - Decimal("0.01"))):
            change(
                horde.platform, "UPDATE shared_keys SET kudos = :kudos WHERE id = :id", id=key, kudos=kudos
            )
        horde.asked(enough)
        with unchanged(horde.platform):
            assert_refused(horde.ask(short), 403, "SharedKeyInsufficientKudos", "key", "kudos")

    def test_too_little_with_a_downgrade_is_served_last_in_full(
        self, horde: Horde, owner: Account, worker: Account
    ) -> None:
        key = shared(horde, owner, kudos=3)
        answer = horde.ask(key, allow_downgrade=True, prompt="last", params=FREE).json
        assert "downgraded" not in answer
        assert priority(horde, answer["id"]) == pytest.approx(-50, abs=5)
        horde.asked(prompt="first")
        first, last = (horde.popped(worker) for _ in range(2))
        assert (first["payload"]["prompt"], last["payload"]["prompt"]) == ("first", "last")
        assert (last["payload"]["width"], last["payload"]["ddim_steps"]) == (1024, 40)
        horde.submitted(worker, last["id"])
        spent = 1000 - horde.kudos(owner.balance)
        assert spent == pytest.approx(Decimal(answer["kudos"]), abs=Decimal(1))
        assert state(horde, key) == (0, spent)
        assert_books_balance(horde.platform)

    def test_too_little_for_what_needs_kudos_upfront_is_reduced(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner, kudos=3)
        answer = horde.ask(key, allow_downgrade=True, **LARGE).json
        assert answer["downgraded"]["width"] * answer["downgraded"]["height"] <= 1024**2
        assert priority(horde, answer["id"]) == pytest.approx(-50, abs=5)
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0

    def test_too_little_and_an_owner_without_kudos(self, horde: Horde) -> None:
        key = shared(horde, horde.account(amount=15), kudos=3)
        answer = horde.ask(key, allow_downgrade=True, **LARGE).json
        assert answer["downgraded"]["width"] * answer["downgraded"]["height"] <= 1024**2
        assert priority(horde, answer["id"]) == pytest.approx(-50, abs=5)

    def test_what_other_requests_will_cost_counts(
        self, horde: Horde, owner: Account, worker: Account
    ) -> None:
        each = cost(horde, owner)
        key = shared(horde, owner, kudos=round(2.5 * each))
        requests = [horde.asked(key) for _ in range(2)]
        with unchanged(horde.platform):
            assert_refused(horde.ask(key), 403, "SharedKeyInsufficientKudos")
        horde.cancel(requests[0])
        horde.asked(key)
        deliver(horde, worker)
        left, spent = state(horde, key)
        assert left + spent == round(2.5 * each)
        assert spent == 1000 - horde.kudos(owner.balance)

    def test_a_key_without_limit_only_counts(self, horde: Horde, owner: Account, worker: Account) -> None:
        key = shared(horde, owner, kudos=-1)
        for _ in range(2):
            horde.asked(key, params={"n": 2})
        deliver(horde, worker)
        spent = 1000 - horde.kudos(owner.balance)
        assert state(horde, key) == (-1, spent)
        assert horde.call("GET", f"/sharedkeys/{key}").json["utilized"] == round(spent)
        sweep.release_reservations(horde.platform)
        assert_books_balance(horde.platform)

    def test_twenty_at_once_never_spend_more_than_the_key_has(
        self, horde: Horde, owner: Account, worker: Account
    ) -> None:
        each = cost(horde, owner)
        key = shared(horde, owner, kudos=round(7.5 * each))

        def ask(number: int) -> Any:
            caller = Horde(horde.client.application.test_client(), horde.platform)
            address = {"REMOTE_ADDR": f"192.0.2.{number}"}
            # Whatever the address, no key may ask more than twice a second: these are relaxed.
            horde.platform.cache.set(f"relaxed:192.0.2.{number}", 1)
            body = {"prompt": "a fox"}
            return caller.call("POST", "/generate/async", key, json=body, environ_base=address).json

        answers = in_threads(20, ask)
        accepted = [answer["id"] for answer in answers if "id" in answer]
        refused = [answer["rc"] for answer in answers if "id" not in answer]
        assert (len(accepted), set(refused)) == (7, {"SharedKeyInsufficientKudos"})
        assert scalar(horde.platform, "SELECT count(*) FROM requests") == 7
        deliver(horde, worker)
        left, spent = state(horde, key)
        assert left >= 0
        assert left + spent == round(7.5 * each)
        assert spent == 1000 - horde.kudos(owner.balance)
        assert_books_balance(horde.platform)
        with horde.platform.read() as db:
            assert_queue_consistent(db)

    def test_a_quote_asks_neither_for_kudos_nor_leaves_a_trace(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner, kudos=1)
        with unchanged(horde.platform):
            for _ in range(3):
                assert cost(horde, key, **LARGE) == cost(horde, owner, **LARGE)


class TestSizeAndSteps:
    SMALL = {"width": 640, "height": 512}

    @pytest.mark.parametrize(
        ("limits", "params", "word"),
        [
            ({"max_image_pixels": 640 * 512 - 1}, SMALL, "640x512"),
            ({"max_image_pixels": 0}, {"width": 64, "height": 64}, "0 pixels"),
            ({"max_image_steps": 29}, {}, "30 steps"),
            ({"max_image_steps": 0}, {"steps": 1}, "1 steps"),
            ({"max_image_steps": 10, "max_image_pixels": 1}, {}, "pixels"),
        ],
    )
    def test_too_much(
        self, horde: Horde, owner: Account, limits: dict[str, int], params: dict[str, Any], word: str
    ) -> None:
        key = shared(horde, owner, **limits)
        with unchanged(horde.platform):
            for fields in ({}, {"allow_downgrade": True}, {"dry_run": True}):
                assert_refused(horde.ask(key, params=params, **fields), 400, "BadRequest", word, "key")
        horde.asked(owner, params=params)

    @pytest.mark.parametrize(
        ("limits", "params"),
        [
            ({"max_image_pixels": 640 * 512}, SMALL),
            ({"max_image_pixels": -1, "max_image_steps": -1}, {"width": 2048, "steps": 100}),
            ({"max_image_steps": 30}, {}),
            # The steps themselves count, however much work one is.
            ({"max_image_steps": 30}, {"sampler_name": "k_heun"}),
            # The server makes it 40 steps, and 20 if none are given.
            ({"max_image_steps": 40}, {"control_type": "canny", "steps": 100}),
            ({"max_image_steps": 20}, {"control_type": "canny"}),
        ],
    )
    def test_not_too_much(
        self, horde: Horde, owner: Account, limits: dict[str, int], params: dict[str, Any]
    ) -> None:
        fields = {"source_image": PICTURE} if "control_type" in params else {}
        horde.asked(shared(horde, owner, **limits), params=params, **fields)

    def test_what_the_model_makes_of_the_steps_counts(self, horde: Horde, owner: Account) -> None:
        key = shared(horde, owner, max_image_steps=8)
        horde.asked(key, models=[FLUX])
        for fields in ({"models": [FLUX], "model_requirements": "warn"}, {"models": [FLUX, MODEL]}):
            with unchanged(horde.platform):
                assert_refused(horde.ask(key, **fields), 400, "BadRequest", "30 steps", "8")

    def test_what_a_downgrade_leaves_counts(self, horde: Horde, owner: Account, worker: Account) -> None:
        limits = {"max_image_pixels": 1024**2, "max_image_steps": 40}
        fields: dict[str, Any] = {"params": {"width": 1536, "height": 1536, "steps": 50}}
        key = shared(horde, horde.account(amount=15), **limits)
        # An owner who can pay is not reduced.
        paid = horde.ask(shared(horde, owner, **limits), allow_downgrade=True, **fields)
        assert_refused(paid, 400, "BadRequest", "1536x1536")
        answer = horde.ask(key, allow_downgrade=True, **fields).json
        assert answer["downgraded"] == {"width": 1024, "height": 1024, "steps": 40, "slow_workers": True}
        payload = horde.popped(worker)["payload"]
        assert (payload["width"], payload["height"], payload["ddim_steps"]) == (1024, 1024, 40)
        tight = shared(horde, horde.account(amount=15), **limits | {"max_image_steps": 39})
        with unchanged(horde.platform):
            response = horde.ask(tight, allow_downgrade=True, **fields)
            assert_refused(response, 400, "BadRequest", "40 steps", "39")
