"""Requests made with styles and collections."""

from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.image import prices
from horde.kudos import service as ledger
from horde.kudos.pricing import base_price
from horde.moderation import timeouts
from horde.styles import using
from horde.styles.rules import styled_image_prompt
from horde.users.rules import ANONYMOUS_KEY, Role
from kudos_model.features import JobFeatures
from tests.styles.support import made, shared_key, shown
from tests.support import (
    FLUX,
    MODEL,
    SDXL,
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    counted_statements,
    forget,
    in_threads,
    scalar,
    unchanged,
)

TEMPLATE = "{p}, oil###{np}, blurry"


@pytest.fixture
def worker(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, username="Owner")


def settle(horde: Horde) -> None:
    using.fold_uses(horde.platform)
    ledger.fold_all(horde.platform)
    assert_books_balance(horde.platform)


def styled(horde: Horde, owner: Account) -> dict[str, Any]:
    """What an account's styles brought it."""
    details = horde.call("GET", f"/users/{owner.id}").json
    return {"kudos": details["kudos_details"]["styled"], "times": details["records"]["style"]["image"]}


def used(horde: Horde, style: str) -> int:
    return int(shown(horde, style)["use_count"])


class TestWhatRuns:
    def test_models_and_parameters_are_the_styles(
        self, horde: Horde, painter: Account, stranger: Account, worker: Account
    ) -> None:
        style = made(horde, painter, prompt=TEMPLATE, models=[SDXL], params={"steps": 9, "width": 640})
        own = {"n": 2, "width": 128, "height": 704, "steps": 50, "seed": "5", "tiling": True}
        horde.asked(stranger, prompt="a fox###dogs", style=style, models=[MODEL], params=own)
        assert horde.pop(worker).json["id"] is None
        job = horde.popped(worker, models=[SDXL], amount=5)
        payload = job["payload"]
        assert (job["model"], len(job["ids"])) == (SDXL, 2)
        assert payload["prompt"] == "a fox, oil###dogs, blurry"
        assert (payload["width"], payload["height"], payload["ddim_steps"]) == (640, 704, 9)
        assert payload["tiling"] is False
        assert payload["seed"] != "5"

    def test_sizes_are_the_usual_where_nobody_says(
        self, horde: Horde, painter: Account, worker: Account
    ) -> None:
        style = made(horde, painter, params={})
        horde.asked(style=style)
        payload = horde.popped(worker)["payload"]
        assert (payload["width"], payload["height"]) == (512, 512)

    @pytest.mark.parametrize(
        ("template", "prompt", "expected"),
        [
            ("{p}{np}", "a###b", "a###b"),
            ("{p}{np}", "a", "a"),
            ("{p} x {np}", "a###", "a x "),
            ("{p}###{np}", "a###b###c", "a###b###c"),
            ("{p} {np}", "a###b###c", "a b###c"),
            ("{p}###{np}", "a", "a###"),
            ("{x}{p}{}{np}{", "{np}###{p}", "{x}{np}{}###{p}{"),
            ("{np}{p}{p}", "a###b", "###baa"),
        ],
    )
    def test_prompts(self, template: str, prompt: str, expected: str) -> None:
        assert styled_image_prompt(template, prompt) == expected

    @given(st.text(), st.text().filter(lambda part: "###" not in part))
    def test_braces_in_prompts_are_nothing_special(self, template: str, positive: str) -> None:
        assert styled_image_prompt("{p}|{np}" + template.replace("{", ""), positive).startswith(positive)

    def test_rules_hold_for_what_runs(self, horde: Horde, painter: Account, stranger: Account) -> None:
        style = made(horde, painter, models=[FLUX], params={})
        hires = {"params": {"hires_fix": True}}
        assert horde.ask(stranger, style=style, models=[FLUX], **hires).status_code == 202
        style = made(horde, painter, name="b", models=["pix2pix"], params={})
        assert_refused(horde.ask(stranger, style=style), 400, "SourceImageRequiredForModel")

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_templates_that_swell(self, horde: Horde, painter: Account, dry_run: bool) -> None:
        style = made(horde, painter, prompt="{p}" * 1000 + "{np}", params={})
        with unchanged(horde.platform):
            for prompt in ("word " * 7500, "x" * 101, "x" * 3_000_000, "a###" + "x" * 100_000):
                refused = horde.ask(style=style, prompt=prompt, dry_run=dry_run)
                assert_refused(refused, 400, "InvalidPromptSize", "100000")
            many = horde.ask(style=style, prompt="a b c d e f g h i j", dry_run=dry_run)
            assert_refused(many, 400, "InvalidPromptSize", "7500 words")
        fits = horde.ask(style=style, prompt="x" * 100, dry_run=dry_run)
        assert fits.status_code == (200 if dry_run else 202)

    def test_texts_for_the_workflow_of_a_style(self, horde: Horde, painter: Account, worker: Account) -> None:
        style = made(horde, painter, params={"workflow": "qr_code"})
        plain = made(horde, painter, name="plain", params={})
        texts = {"extra_texts": [{"text": "https://example.com", "reference": "qr_code"}]}
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=style), 400, "MissingExtraTexts")
        horde.asked(style=plain, params=texts)
        assert "extra_texts" not in horde.popped(worker)["payload"]
        horde.asked(style=style, params=texts | {"steps": 7})
        payload = horde.popped(worker)["payload"]
        assert payload["extra_texts"] == texts["extra_texts"]
        assert payload["ddim_steps"] != 7

    def test_what_is_imposed_on_schools_holds_with_styles(
        self, horde: Horde, painter: Account, worker: Account
    ) -> None:
        style = made(horde, painter, nsfw=True, params={})
        school = horde.account(Role.EDUCATION, amount=100)
        horde.asked(school, style=style, nsfw=True, trusted_workers=False, censor_nsfw=False)
        new = horde.account(amount=9)
        assert horde.skipped(new, "new") == {"untrusted": 1}
        assert horde.popped(worker)["payload"]["use_nsfw_censor"] is True

    def test_special_models(self, horde: Horde) -> None:
        owner = horde.account(Role.CUSTOMIZER, Role.SPECIAL)
        special = {"models": [f"horde_special::{owner.alias}"], "params": {"special": {"a": {}}}}
        style = made(horde, owner, **special)
        others = horde.account(Role.SPECIAL)
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=style), 403, "SpecialModelNeedsSpecialUser")
            assert_refused(horde.ask(others, style=style), 403, "SpecialForbidden")
        horde.asked(owner, style=style)

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_names(self, horde: Horde, painter: Account, dry_run: bool) -> None:
        style = made(horde, painter)
        made(horde, painter, "text")
        fine = 200 if dry_run else 202
        for name in ("Oil", style, f"{painter.alias}::style::Oil", f"{painter.id}::Oil", "style::Oil"):
            assert horde.ask(style=name, dry_run=dry_run).status_code == fine
        with unchanged(horde.platform):
            for name in (str(uuid4()), "oil", "collection::Oil", "x#999999::Oil"):
                assert_refused(horde.ask(style=name, dry_run=dry_run), 404, "StyleNotFound")
            assert_refused(horde.ask(style="Bard", dry_run=dry_run), 400, "StyleMismatch", "text")


class TestKudos:
    def test_the_owner_is_rewarded(self, horde: Horde, painter: Account, stranger: Account) -> None:
        style = made(horde, painter)
        before = horde.kudos(stranger.balance)
        request = horde.asked(stranger, style=style)
        tax = prices.activation_tax(foreign_style=True)
        assert before - horde.kudos(stranger.balance) == tax
        assert horde.status(request)["kudos"] == float(tax)
        settle(horde)
        assert styled(horde, painter) == {"kudos": float(prices.STYLE_TAX), "times": 1}
        assert used(horde, style) == 1
        assert scalar(horde.platform, "SELECT count(*) FROM style_uses") == 0

    def test_never_for_oneself(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        before = horde.kudos(painter.balance)
        horde.asked(painter, style=style)
        assert before - horde.kudos(painter.balance) == prices.activation_tax()
        settle(horde)
        assert styled(horde, painter) == {"kudos": 0, "times": 0}
        assert used(horde, style) == 1

    def test_anonymous_requests_count(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        for _ in range(2):
            horde.asked(style=style)
        settle(horde)
        assert styled(horde, painter)["times"] == used(horde, style) == 2

    def test_the_quote_says_so(self, horde: Horde, painter: Account, stranger: Account) -> None:
        style = made(horde, painter, params={"steps": 20})
        price = base_price(JobFeatures(512, 512, 20, "k_euler_a", 5.0))
        for key, foreign in ((stranger, True), (painter, False)):
            tax = prices.activation_tax(foreign_style=foreign)
            expected = float(round(prices.quote(price, 1, prices.BurnTerms(), tax)))
            with unchanged(horde.platform):
                assert horde.ask(key, style=style, dry_run=True).json == {"kudos": expected}
            assert horde.ask(key, style=style).json["kudos"] == expected

    @pytest.mark.parametrize(
        ("key", "fields", "status"),
        [
            ("x" * 22, {}, 401),
            (ANONYMOUS_KEY, {"webhook": "https://10.0.0.1/hook"}, 400),
            (ANONYMOUS_KEY, {"params": {"n": 20, "width": 3072, "height": 3072}}, 403),
        ],
    )
    def test_refused_requests_bring_nothing(
        self, horde: Horde, painter: Account, key: str, fields: dict[str, Any], status: int
    ) -> None:
        style = made(horde, painter, params={})
        with unchanged(horde.platform):
            assert horde.ask(key, style=style, **fields).status_code == status

    def test_too_many_waiting(self, horde: Horde, painter: Account) -> None:
        style = made(horde, painter)
        change(horde.platform, "UPDATE users SET concurrency = 1")
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=style, params={"n": 2}), 429, "TooManyPrompts")

    def test_nobody_is_rewarded_for_a_deleted_account(
        self, horde: Horde, painter: Account, stranger: Account
    ) -> None:
        style = made(horde, painter)
        horde.call("DELETE", f"/users/{painter.id}", painter)
        before = horde.kudos(stranger.balance)
        horde.asked(stranger, style=style)
        assert before - horde.kudos(stranger.balance) == prices.activation_tax()
        settle(horde)
        assert styled(horde, painter) == {"kudos": 0, "times": 0}

    def test_many_at_once(self, horde: Horde, painter: Account, stranger: Account) -> None:
        style = made(horde, painter)
        callers = [stranger.key, ANONYMOUS_KEY, painter.key]
        body = {"prompt": "a fox", "style": style, "params": {"n": 1}}

        def ask(number: int) -> int:
            headers = {"apikey": callers[number % 3]}
            client = horde.client.application.test_client()
            return int(client.post("/api/v2/generate/async", json=body, headers=headers).status_code)

        accepted = [number for number, code in enumerate(in_threads(12, ask)) if code == 202]
        foreign = sum(number % 3 != 2 for number in accepted)
        settle(horde)
        assert used(horde, style) == len(accepted) > 0
        assert styled(horde, painter) == {"kudos": float(prices.STYLE_TAX * foreign), "times": foreign}

    def test_without_a_style_nothing_is_asked_for_it(self, horde: Horde, stranger: Account) -> None:
        horde.asked(stranger)
        with counted_statements() as sent:
            horde.asked(stranger)
        assert not [statement for statement in sent if "style" in statement.lower()]


class TestKeys:
    """Styles whose shared key pays."""

    @pytest.fixture
    def rich(self, horde: Horde) -> Account:
        return horde.account(Role.TRUSTED, amount=1000, username="Rich")

    @pytest.fixture
    def lent(self, horde: Horde, rich: Account) -> str:
        """A style that its owner pays for."""
        key = shared_key(horde, rich, kudos=500, max_image_steps=1, max_image_pixels=0)
        return made(horde, rich, params={"steps": 20}, sharedkey=key)

    def test_its_owner_pays(
        self, horde: Horde, rich: Account, lent: str, stranger: Account, worker: Account
    ) -> None:
        before = horde.kudos(stranger.balance)
        for key in (stranger, ANONYMOUS_KEY):
            horde.asked(key, style=lent)
            horde.submitted(worker, horde.popped(worker)["id"])
        settle(horde)
        assert horde.kudos(stranger.balance) == before
        key = shown(horde, lent, rich)["shared_key"]
        spent = Decimal(1000) - horde.kudos(rich.balance)
        assert spent > 2 * prices.activation_tax()
        assert key["utilized"] == round(spent)
        assert styled(horde, rich) == {"kudos": 0, "times": 0}

    @pytest.mark.parametrize("dry_run", [False, True])
    def test_callers_are_checked(self, horde: Horde, rich: Account, lent: str, dry_run: bool) -> None:
        gone = horde.account(Role.DELETED)
        other = shared_key(horde, rich)
        made(horde, rich, name="other", sharedkey=other)
        empty = shared_key(horde, rich, kudos=0)
        with unchanged(horde.platform):
            for key, status, rc in (
                ("x" * 22, 401, "InvalidAPIKey"),
                (str(uuid4()), 401, "InvalidAPIKey"),
                (gone, 403, "DeletedUser"),
                (other, 403, "SharedKeyAssignedStyles"),
                (empty, 403, "SharedKeyEmpty"),
            ):
                assert_refused(horde.ask(key, style=lent, dry_run=dry_run), status, rc)
            proxied = horde.ask(style=lent, dry_run=dry_run, proxied_account="x")
            assert_refused(proxied, 400, "OnlyServiceAccountProxy")

    def test_addresses_in_timeout(self, horde: Horde, lent: str, moderator: Account) -> None:
        body = {"ipaddr": "127.0.0.1", "hours": 1}
        assert horde.call("POST", "/operations/ipaddr", moderator, json=body).status_code == 200
        forget(horde.platform)
        assert timeouts.timeout_seconds(horde.platform, "127.0.0.1") > 0
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=lent), 403, "TimeoutIP")

    def test_callers_do_not_get_what_is_the_owners(self, horde: Horde, lent: str) -> None:
        horde.asked(style=lent)
        assert not list(horde.platform.cache.scan_iter("relaxed:*"))

    def test_a_style_without_its_key_goes_on(
        self, horde: Horde, rich: Account, lent: str, stranger: Account, worker: Account
    ) -> None:
        key = shown(horde, lent, rich)["sharedkey"]
        request = horde.asked(stranger, style=lent)
        job = horde.popped(worker)["id"]
        assert horde.call("DELETE", f"/sharedkeys/{key}", rich).status_code == 200
        before = horde.kudos(rich.balance)
        horde.submitted(worker, job)
        assert horde.status(request)["done"]
        assert horde.kudos(rich.balance) < before
        paid = horde.kudos(stranger.balance)
        horde.asked(stranger, style=lent)
        assert paid - horde.kudos(stranger.balance) == prices.activation_tax(foreign_style=True)

    @pytest.mark.parametrize("role", [Role.FLAGGED, Role.EDUCATION])
    def test_some_pay_themselves(self, horde: Horde, rich: Account, lent: str, role: Role) -> None:
        caller = horde.account(role, amount=100)
        horde.asked(caller, style=lent)
        settle(horde)
        assert horde.kudos(caller.balance) == Decimal(100) - prices.activation_tax(foreign_style=True)

    @pytest.mark.parametrize("ruin", ["kudos = 0", "expires = now() - interval '1 day'"])
    def test_a_key_that_cannot_be_used_is_ignored(
        self, horde: Horde, rich: Account, lent: str, stranger: Account, ruin: str
    ) -> None:
        change(horde.platform, f"UPDATE shared_keys SET {ruin}")
        before = horde.kudos(stranger.balance)
        horde.asked(stranger, style=lent)
        assert before - horde.kudos(stranger.balance) == prices.activation_tax(foreign_style=True)

    def test_a_key_with_too_little(self, horde: Horde, rich: Account, lent: str) -> None:
        change(horde.platform, "UPDATE shared_keys SET kudos = 2")
        with unchanged(horde.platform):
            assert_refused(horde.ask(style=lent), 403, "SharedKeyInsufficientKudos")

    def test_a_callers_own_key_keeps_its_limits(self, horde: Horde, rich: Account, painter: Account) -> None:
        style = made(horde, painter, params={"steps": 20})
        key = shared_key(horde, rich, max_image_steps=5)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key, style=style), 400, "BadRequest", "steps")


class TestCorruptPrompts:
    """Who answers for a prompt that the filters refuse."""

    @pytest.fixture(autouse=True)
    def filtering(self, horde: Horde, moderator: Account) -> None:
        for expression, kind in (("forbidden", 10), ("garden", 20)):
            body = {"regex": expression, "filter_type": kind, "description": "test"}
            assert horde.call("PUT", "/filters", moderator, json=body).status_code == 200
        forget(horde.platform)

    def ask(self, horde: Horde, key: Account, style: str, prompt: str) -> list[int]:
        """Who is suspicious, and whose address is kept out, after a prompt was refused."""
        refused = horde.ask(key, style=style, prompt=prompt, replacement_filter=False)
        assert_refused(refused, 400, "CorruptPrompt")
        with horde.platform.read() as db:
            suspicious = list(db.exec_driver_sql("SELECT user_id FROM suspicions").scalars())
        out = timeouts.timeout_seconds(horde.platform, "127.0.0.1") > 0
        assert out == bool(suspicious)
        return suspicious

    @pytest.mark.parametrize("role", [Role.TRUSTED, Role.MODERATOR])
    def test_whoever_calls_and_not_whoever_pays(self, horde: Horde, stranger: Account, role: Role) -> None:
        owner = horde.account(role, amount=100)
        style = made(horde, owner, params={}, sharedkey=shared_key(horde, owner))
        assert self.ask(horde, stranger, style, "forbidden garden") == [stranger.id]

    def test_nobody_for_somebody_elses_style(self, horde: Horde, painter: Account, stranger: Account) -> None:
        style = made(horde, painter, prompt="{p} in a forbidden garden{np}", params={})
        assert self.ask(horde, stranger, style, "a garden") == []
        assert self.ask(horde, painter, style, "a garden") == [painter.id]
