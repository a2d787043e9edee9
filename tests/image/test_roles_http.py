"""What an account's role changes about its requests, whichever key they are sent with."""

import json
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy import text
from werkzeug.test import TestResponse

from horde.moderation.timeouts import TIMEOUTS
from horde.users import passkeys
from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.https_server import HttpsServer, reply
from tests.support import (
    FLUX,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    count_rows,
    files,
    forget,
    scalar,
    unchanged,
)

CORRUPT = {"prompt": "forbidden fruit in a garden", "replacement_filter": False}
SERVICE_ADDRESS, PERSON, OTHER_PERSON = "192.0.2.1", "198.51.100.7", "203.0.113.5"


@pytest.fixture
def moderator(horde: Horde) -> Account:
    """Has made filters that object to `CORRUPT`."""
    moderator = horde.account(Role.MODERATOR)
    for expression, kind, replacement in (("forbidden fruit", 10, "apple"), ("garden", 20, "")):
        new = {"regex": expression, "filter_type": kind, "description": "test", "replacement": replacement}
        assert horde.call("PUT", "/filters", moderator, json=new).status_code == 200
    forget(horde.platform)
    return moderator


def key_of(horde: Horde, owner: Account, sent: str) -> Account | str:
    """The account itself, or a shared key of it."""
    if sent == "own key":
        return owner
    return str(horde.call("PUT", "/sharedkeys", owner, json={"kudos": -1}).json["id"])


def stored(horde: Horde, request: str, column: str) -> Any:
    return scalar(horde.platform, f"SELECT {column} FROM requests WHERE id = :id", id=request)


def prompt_of(horde: Horde, request: str) -> str:
    return str(stored(horde, request, "prompt"))


def relaxed(horde: Horde) -> set[str]:
    """The addresses with relaxed rate limits."""
    return {key.decode().removeprefix("relaxed:") for key in horde.platform.cache.scan_iter("relaxed:*")}


BOTH_KEYS = pytest.mark.parametrize("sent", ["own key", "shared key"])


class TestEducators:
    @pytest.fixture
    def teacher(self, horde: Horde) -> Account:
        return horde.account(Role.EDUCATION, username="Teacher", amount=1000)

    @BOTH_KEYS
    @pytest.mark.parametrize(
        "fields", [{}, {"nsfw": True}, {"censor_nsfw": False}, {"nsfw": True, "trusted_workers": False}]
    )
    def test_pictures_are_safe_and_made_by_trusted_workers(
        self, horde: Horde, teacher: Account, sent: str, fields: dict[str, Any]
    ) -> None:
        newcomer, trusted = horde.account(), horde.account(Role.TRUSTED)
        horde.asked(key_of(horde, teacher, sent), **fields)
        assert horde.skipped(newcomer, "new", nsfw=True) == {"untrusted": 1}
        assert horde.popped(trusted, "trusted", nsfw=False)["payload"]["use_nsfw_censor"] is True

    @BOTH_KEYS
    def test_prompts_are_rewritten_and_nobody_is_punished(
        self, horde: Horde, moderator: Account, teacher: Account, sent: str
    ) -> None:
        prompt = prompt_of(horde, horde.asked(key_of(horde, teacher, sent), **CORRUPT))
        assert prompt.startswith("apple in a garden###")
        assert not horde.platform.cache.exists(TIMEOUTS)
        assert (count_rows(horde.platform)["suspicions"], files(horde.platform)) == (0, set())

    def test_innocent_prompts_stay(self, horde: Horde, moderator: Account, teacher: Account) -> None:
        assert (
            prompt_of(horde, horde.asked(teacher, prompt="a (red:1.2) fox###fog")) == "a (red:1.2) fox###fog"
        )

    def test_a_class_may_have_200_images_waiting(self, horde: Horde) -> None:
        user = horde.account()
        users.set_role(horde.platform, user.id, Role.EDUCATION, True)
        assert horde.call("GET", "/find_user", user).json["concurrency"] == 200
        shared = key_of(horde, user, "shared key")
        for number in range(10):
            horde.asked(user if number % 2 else shared, params={"n": 20})
        with unchanged(horde.platform):
            for key in (user, shared):
                assert_refused(horde.ask(key), 429, "TooManyPrompts", "200")

    def test_whoever_may_have_more_keeps_it(self, horde: Horde) -> None:
        user = horde.account()
        change(horde.platform, "UPDATE users SET concurrency = 500 WHERE id = :id", id=user.id)
        users.set_role(horde.platform, user.id, Role.EDUCATION, True)
        assert horde.call("GET", "/find_user", user).json["concurrency"] == 500

    def test_the_role_works_as_long_as_it_is_held(self, horde: Horde, teacher: Account) -> None:
        newcomer = horde.account()
        users.set_role(horde.platform, teacher.id, Role.EDUCATION, False)
        horde.asked(teacher)
        assert "use_nsfw_censor" not in horde.popped(newcomer)["payload"]

    def test_what_is_advised_helps(self, horde: Horde, teacher: Account) -> None:
        """An educator cannot do without trusted workers, so it must not be advised."""
        horde.pop(horde.account(), "new")
        forget(horde.platform)
        answer = horde.ask(teacher).json
        assert answer["explain"]["reasons"] == {"untrusted": 1}
        changed = {each["field"]: each.get("value") for each in answer["explain"]["changes"]}
        again = horde.ask(teacher, **changed).json
        assert "explain" not in again or not changed, answer["explain"]


def from_service(
    horde: Horde,
    passkey: str | None,
    person: str | None,
    key: Account | str = ANONYMOUS_KEY,
    *,
    address: str = SERVICE_ADDRESS,
    **fields: Any,
) -> TestResponse:
    """Ask as a service does that passes on a person's request; rate limits count."""
    names = {"Proxy-Authorization": passkey, "Proxied-For": person}
    headers = {name: value for name, value in names.items() if value is not None}
    headers["apikey"] = key.key if isinstance(key, Account) else key
    return horde.client.post(
        "/api/v2/generate/async",
        json={"prompt": "a lighthouse"} | fields,
        headers=headers,
        environ_base={"REMOTE_ADDR": address},
    )


def keep_out(horde: Horde, moderator: Account, address: str) -> None:
    body = {"ipaddr": address, "hours": 1}
    assert horde.call("POST", "/operations/ipaddr", moderator, json=body).status_code == 200
    forget(horde.platform)


def kept_out(horde: Horde, moderator: Account) -> dict[str, int]:
    """Addresses in timeout, with their seconds."""
    answer = horde.call("GET", "/operations/ipaddr", moderator).json
    return {each["ipaddr"]: each["seconds"] for each in answer}


class TestServices:
    @pytest.fixture
    def service(self, horde: Horde) -> Account:
        return horde.account(Role.SERVICE, username="Service", amount=1000)

    @pytest.fixture
    def passkey(self, horde: Horde, service: Account) -> str:
        return passkeys.new_passkey(horde.platform, service.id)

    @pytest.mark.parametrize("name", ["discord:123", "", "x" * 255, "Zoë 😀 '; DROP TABLE users --"])
    @BOTH_KEYS
    def test_they_say_whom_they_ask_for(self, horde: Horde, service: Account, sent: str, name: str) -> None:
        request = horde.asked(key_of(horde, service, sent), proxied_account=name)
        assert stored(horde, request, "proxied_account") == name
        assert stored(horde, horde.asked(service), "proxied_account") is None

    def test_names_of_accounts_have_a_length(self, horde: Horde, service: Account) -> None:
        with unchanged(horde.platform):
            response = horde.ask(service, proxied_account="x" * 256)
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"proxied_account"}

    @BOTH_KEYS
    def test_nobody_else_does(self, horde: Horde, sent: str) -> None:
        key = key_of(horde, horde.account(Role.TRUSTED, Role.EDUCATION), sent)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key, proxied_account="x"), 400, "OnlyServiceAccountProxy")

    def test_the_persons_address_is_stored(self, horde: Horde, service: Account, passkey: str) -> None:
        for key in (ANONYMOUS_KEY, service):
            response = from_service(horde, passkey, "2001:DB8:0::1", key)
            assert stored(horde, response.json["id"], "ipaddr") == "2001:db8::1"

    def test_the_persons_timeout_counts_and_no_one_elses(
        self, horde: Horde, moderator: Account, passkey: str
    ) -> None:
        for address in (PERSON, SERVICE_ADDRESS):
            keep_out(horde, moderator, address)
        with unchanged(horde.platform):
            assert_refused(from_service(horde, passkey, PERSON), 403, "TimeoutIP", PERSON)
            assert_refused(from_service(horde, None, None), 403, "TimeoutIP", SERVICE_ADDRESS)
        assert from_service(horde, passkey, OTHER_PERSON).status_code == 202

    def test_a_refused_prompt_is_held_against_the_person(
        self, horde: Horde, moderator: Account, service: Account, passkey: str
    ) -> None:
        assert_refused(from_service(horde, passkey, PERSON, service, **CORRUPT), 400, "CorruptPrompt")
        forget(horde.platform)
        assert kept_out(horde, moderator).keys() == {PERSON}
        assert_refused(from_service(horde, passkey, PERSON), 403, "TimeoutIP")
        for person in (OTHER_PERSON, None):
            assert from_service(horde, passkey, person, service).status_code == 202

    def test_each_person_has_limits_of_their_own(self, horde: Horde, passkey: str) -> None:
        def statuses(*people: str) -> list[int]:
            return [from_service(horde, passkey, person).status_code for person in people]

        assert statuses(PERSON, PERSON, PERSON, OTHER_PERSON, SERVICE_ADDRESS) == [202, 202, 429, 202, 202]

    @pytest.mark.parametrize("guess", [None, "", "x" * 22, "None", "*"])
    def test_without_the_passkey_a_person_is_made_up(
        self, horde: Horde, moderator: Account, passkey: str, guess: str | None
    ) -> None:
        first = from_service(horde, guess, PERSON)
        assert stored(horde, first.json["id"], "ipaddr") == SERVICE_ADDRESS
        assert [from_service(horde, guess, OTHER_PERSON).status_code for _ in range(2)] == [202, 429]
        keep_out(horde, moderator, SERVICE_ADDRESS)
        horde.platform.cache.delete(*horde.platform.cache.scan_iter("limit:*"))
        assert_refused(from_service(horde, guess, PERSON), 403, "TimeoutIP", SERVICE_ADDRESS)

    def test_what_a_liar_sends_is_held_against_the_liar(
        self, horde: Horde, moderator: Account, passkey: str
    ) -> None:
        assert_refused(from_service(horde, "a guess", PERSON, **CORRUPT), 400, "CorruptPrompt")
        assert kept_out(horde, moderator).keys() == {SERVICE_ADDRESS}

    def test_in_a_raid_the_persons_address_is_looked_at(
        self, horde: Horde, server: HttpsServer, service: Account, passkey: str
    ) -> None:
        server.answer = lambda handler: reply(body=b"0.99" if PERSON in handler.path else b"0")(handler)
        change(horde.platform, "UPDATE modes SET raid = true")
        trusted = horde.account(Role.TRUSTED)
        with another_process(
            horde,
            ip_checker_url=server.url("/{address}"),
            outbound_networks=(ip_network("127.0.0.0/8"),),
            outbound_ca_file=server.ca_file,
        ) as raided:
            assert_refused(from_service(raided, passkey, PERSON, service), 403, "UntrustedUnsafeIP")
            assert from_service(raided, passkey, OTHER_PERSON, service).status_code == 202
            assert from_service(raided, passkey, PERSON, trusted).status_code == 202
        assert sorted({received.path for received in server.received}) == [f"/{PERSON}", f"/{OTHER_PERSON}"]


class TestRelaxedLimits:
    @pytest.mark.parametrize("role", [Role.TRUSTED, Role.EDUCATION, Role.SERVICE, Role.MODERATOR])
    @BOTH_KEYS
    def test_of_addresses_that_such_accounts_ask_from(self, horde: Horde, role: Role, sent: str) -> None:
        key = key_of(horde, horde.account(role), sent)
        key = key if isinstance(key, str) else key.key
        first = from_service(horde, None, None, key)
        assert (first.status_code, first.headers["X-RateLimit-Limit"]) == (202, "2")
        assert relaxed(horde) == {SERVICE_ADDRESS}
        assert from_service(horde, None, None, key).headers["X-RateLimit-Limit"] == "60"
        assert [from_service(horde, None, None).status_code for _ in range(8)] == [202] * 8

    @pytest.mark.parametrize("role", [None, Role.FLAGGED, Role.VPN, Role.SPECIAL, Role.CUSTOMIZER])
    def test_not_of_others(self, horde: Horde, role: Role | None) -> None:
        assert from_service(horde, None, None, horde.account(*[role] if role else [])).status_code == 202
        assert from_service(horde, None, None).status_code == 202
        assert relaxed(horde) == set()

    def test_not_by_a_refused_account(self, horde: Horde) -> None:
        deleted = horde.account(Role.TRUSTED, Role.DELETED)
        trusted = horde.account(Role.TRUSTED)
        assert_refused(from_service(horde, None, None, deleted), 403, "DeletedUser")
        assert from_service(horde, None, None, trusted, proxied_account="x").status_code == 400
        assert relaxed(horde) == set()

    @pytest.mark.parametrize("role", [Role.TRUSTED, Role.EDUCATION, Role.SERVICE])
    def test_never_through_a_proxy(self, horde: Horde, role: Role) -> None:
        service = horde.account(Role.SERVICE)
        passkey = passkeys.new_passkey(horde.platform, service.id)
        assert from_service(horde, passkey, PERSON, horde.account(role)).status_code == 202
        assert relaxed(horde) == set()
        assert from_service(horde, passkey, SERVICE_ADDRESS, horde.account(role)).status_code == 202
        assert relaxed(horde) == {SERVICE_ADDRESS}

    def test_a_liar_relaxes_no_address_but_their_own(self, horde: Horde) -> None:
        assert from_service(horde, "a guess", PERSON, horde.account(Role.TRUSTED)).status_code == 202
        assert relaxed(horde) == {SERVICE_ADDRESS}


class TestFlaggedAccounts:
    @BOTH_KEYS
    def test_they_are_far_behind(self, horde: Horde, sent: str) -> None:
        rich = horde.account(Role.FLAGGED, amount=20_000)
        poor = horde.account(Role.FLAGGED)
        plain, anonymous = horde.account(amount=50), ANONYMOUS_KEY
        keys = {"poor": key_of(horde, poor, sent), "rich": key_of(horde, rich, sent)}
        asked = {name: horde.asked(key) for name, key in keys.items()}
        asked |= {"anonymous": horde.asked(anonymous), "plain": horde.asked(plain)}
        forget(horde.platform)
        order = sorted(asked, key=lambda name: horde.check(asked[name])["queue_position"])
        assert order == ["plain", "rich", "anonymous", "poor"]

    @BOTH_KEYS
    def test_their_prompts_are_rewritten_whatever_they_say(self, horde: Horde, sent: str) -> None:
        key = key_of(horde, horde.account(Role.FLAGGED, amount=100), sent)
        for filtered in (True, False):
            prompt = "a (red:1.2) fox, a girl ### fog, girl"
            rewritten = prompt_of(horde, horde.asked(key, prompt=prompt, replacement_filter=filtered))
            positive, _, negative = rewritten.partition("###")
            assert positive == "a red fox a woman"
            assert negative.startswith("child, ")
            assert negative.endswith(", fog, girl")

    def test_nothing_of_it_is_told(self, horde: Horde) -> None:
        horde.pop(horde.account(Role.TRUSTED))
        forget(horde.platform)
        answer = horde.ask(horde.account(Role.FLAGGED, amount=100), prompt="a girl")
        assert (answer.status_code, answer.json.keys()) == (202, {"id", "kudos"})

    @pytest.mark.parametrize("prompt", ["...", "### only a negative one", "(:1.2)", " _ "])
    def test_prompts_of_which_nothing_is_left_are_refused(self, horde: Horde, prompt: str) -> None:
        flagged = horde.account(Role.FLAGGED, amount=100)
        with unchanged(horde.platform):
            assert_refused(horde.ask(flagged, prompt=prompt), 400, "CorruptPrompt")
            assert_refused(horde.ask(flagged, prompt=prompt, dry_run=True), 400, "CorruptPrompt")
        assert not horde.platform.cache.exists(TIMEOUTS)
        horde.asked(prompt=prompt)


class TestCorruptPrompts:
    @pytest.fixture
    def user(self, horde: Horde) -> Account:
        return horde.account(username="Somebody", amount=100)

    def suspicion(self, horde: Horde, moderator: Account, user: Account) -> int:
        return int(horde.call("GET", f"/users/{user.id}", moderator).json["suspicious"])

    def archived(self, horde: Horde) -> list[dict[str, str]]:
        return [json.loads(path.read_bytes()) for path in files(horde.platform)]

    @BOTH_KEYS
    def test_they_are_held_against_the_account_once_and_the_address_each_time(
        self, horde: Horde, moderator: Account, user: Account, sent: str
    ) -> None:
        key = key_of(horde, user, sent)
        for expected in (180, 540, 900):
            assert_refused(horde.ask(key, **CORRUPT), 400, "CorruptPrompt")
            forget(horde.platform)
            (seconds,) = kept_out(horde, moderator).values()
            assert seconds == pytest.approx(expected, abs=3)
            assert_refused(horde.ask(key), 403, "TimeoutIP", "seconds")
            horde.platform.cache.delete(TIMEOUTS)
            forget(horde.platform)
        assert self.suspicion(horde, moderator, user) == 1
        with horde.platform.read() as db:
            assert db.execute(text("SELECT user_id, reason FROM suspicions")).all() == [(user.id, 8)]
        sample = {"prompt": CORRUPT["prompt"], "user": user.alias, "type": "regex"}
        assert self.archived(horde) == [sample] * 3
        assert count_rows(horde.platform)["requests"] == 0
        assert horde.kudos(user.balance) == 100

    def test_the_anonymous_account_is_never_suspicious(self, horde: Horde, moderator: Account) -> None:
        assert_refused(horde.ask(**CORRUPT), 400, "CorruptPrompt")
        assert count_rows(horde.platform)["suspicions"] == 0
        assert [each["user"] for each in self.archived(horde)] == ["Anonymous#0"]
        assert len(kept_out(horde, moderator)) == 1

    @BOTH_KEYS
    def test_moderators_are_refused_without_consequences(
        self, horde: Horde, moderator: Account, sent: str
    ) -> None:
        key = key_of(horde, moderator, sent)
        with unchanged(horde.platform):
            assert_refused(horde.ask(key, **CORRUPT), 400, "CorruptPrompt")
        assert not horde.platform.cache.exists(TIMEOUTS)
        forget(horde.platform)
        horde.asked(key)

    def test_trust_is_no_excuse(self, horde: Horde, moderator: Account) -> None:
        trusted = horde.account(Role.TRUSTED)
        assert_refused(horde.ask(trusted, **CORRUPT), 400, "CorruptPrompt")
        assert (self.suspicion(horde, moderator, trusted), len(kept_out(horde, moderator))) == (1, 1)

    def test_a_dry_run_is_refused_without_consequences(
        self, horde: Horde, moderator: Account, user: Account
    ) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.ask(user, dry_run=True, **CORRUPT), 400, "CorruptPrompt")
        assert self.suspicion(horde, moderator, user) == 0
        assert not kept_out(horde, moderator)

    def test_a_rule_broken_before_the_prompt_is_told_first(
        self, horde: Horde, moderator: Account, user: Account
    ) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.ask(user, proxied_account="x", **CORRUPT), 400, "OnlyServiceAccountProxy")
        response = horde.ask(user, models=[FLUX], params={"hires_fix": True}, **CORRUPT)
        assert_refused(response, 400, "CorruptPrompt")
