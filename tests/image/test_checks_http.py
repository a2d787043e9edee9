"""Checks of an image request that depend on the moment, the address or the prompt, and broken bodies."""

import re
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from typing import Any

import pytest
from werkzeug.test import TestResponse

from horde.image.schemas import GenerationInputStable
from horde.moderation import ip_safety
from horde.moderation.timeouts import TIMEOUTS
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.https_server import HttpsServer, reply
from tests.image.test_schemas import places, published
from tests.styles.support import made, shared_key
from tests.support import Account, Horde, another_process, assert_refused, change, forget, unchanged

PATH = "/api/v2/generate/async"
HEADERS = {"apikey": ANONYMOUS_KEY}


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR)


class TestRateLimits:
    """They come before everything else, and a refused call counts as well."""

    BODIES: tuple[dict[str, Any], ...] = (
        {"json": {"prompt": "a fox"}},
        {"json": {"prompt": ""}},
        {"data": "no json"},
        {"json": {"prompt": "a fox", "style": "no such style", "params": {"loras": [{"name": "1"}] * 6}}},
        {"json": {"prompt": "a fox"}, "headers": {}},
        {"json": {"prompt": "a fox"}, "headers": {"apikey": "x" * 22}},
    )

    @pytest.mark.parametrize("values", BODIES)
    def test_too_fast(self, horde: Horde, values: dict[str, Any]) -> None:
        change(horde.platform, "UPDATE users SET concurrency = 0 WHERE id = 0")
        change(horde.platform, "UPDATE modes SET maintenance = true")
        with unchanged(horde.platform):
            for _ in range(20):
                response = horde.client.post(PATH, **{"headers": HEADERS} | values)
                if response.status_code == 429:
                    break
            assert_refused(response, 429, "TooManyRequests")
        assert re.search(r"\d+ per \d+ second", response.json["message"])
        assert int(response.headers["Retry-After"]) >= 1


def keep_out(horde: Horde, moderator: Account, ipaddr: str, hours: int) -> None:
    new = {"ipaddr": ipaddr, "hours": hours}
    assert horde.call("POST", "/operations/ipaddr", moderator, json=new).status_code == 200


class TestTimeouts:
    @pytest.mark.parametrize("block", ["127.0.0.1", "127.0.0.0/24", "127.0.0.0/8"])
    def test_an_address_and_the_blocks_that_hold_it(
        self, horde: Horde, moderator: Account, block: str
    ) -> None:
        keep_out(horde, moderator, block, 2)
        with unchanged(horde.platform):
            for fields in ({}, {"dry_run": True}):
                response = horde.ask(**fields)
                assert_refused(response, 403, "TimeoutIP", "address")
                (seconds,) = map(int, re.findall(r"(\d+) seconds", response.json["message"]))
                assert 7190 <= seconds <= 7200

    def test_how_long_a_long_timeout_is_is_not_told(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "127.0.0.1", 4 * 24 + 1)
        response = horde.ask()
        assert_refused(response, 403, "TimeoutIP")
        assert not re.search(r"\d", response.json["message"].replace("127.0.0.1", ""))

    def test_other_addresses_may_ask(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "127.0.0.0/31", 1)
        assert_refused(horde.ask(), 403, "TimeoutIP")
        elsewhere = {"environ_base": {"REMOTE_ADDR": "127.0.0.2"}, "json": {"prompt": "a fox"}}
        response = horde.call("POST", "/generate/async", ANONYMOUS_KEY, **elsewhere)
        assert response.status_code == 202

    def test_when_it_is_over_they_may_ask_again(self, horde: Horde, moderator: Account) -> None:
        keep_out(horde, moderator, "127.0.0.1", 1)
        assert_refused(horde.ask(), 403, "TimeoutIP")
        horde.platform.cache.zadd(TIMEOUTS, dict.fromkeys(horde.platform.cache.zrange(TIMEOUTS, 0, -1), 1))
        forget(horde.platform)
        horde.asked()


@pytest.fixture
def raided(horde: Horde, server: HttpsServer) -> Iterator[Horde]:
    """A process that asks about addresses, while raid mode is on and the answer is that they are unsafe."""
    server.answer = reply(body=b"0.97")
    change(horde.platform, "UPDATE modes SET raid = true")
    with another_process(
        horde,
        ip_checker_url=server.url("/{address}"),
        outbound_networks=(ip_network("127.0.0.0/8"),),
        outbound_ca_file=server.ca_file,
    ) as process:
        yield process


class TestRaids:
    def test_unsafe_addresses_of_untrusted_accounts_are_refused(
        self, raided: Horde, server: HttpsServer
    ) -> None:
        user = raided.account(Role.SERVICE, amount=1000)
        with unchanged(raided.platform):
            for key in (user, ANONYMOUS_KEY):
                for fields in ({}, {"dry_run": True}):
                    assert_refused(raided.ask(key, **fields), 403, "UntrustedUnsafeIP", "address")
        assert [received.path for received in server.received] == ["/127.0.0.1"]

    def test_trusted_accounts_may_ask_from_anywhere(self, raided: Horde, server: HttpsServer) -> None:
        raided.asked(raided.account(Role.TRUSTED))
        raided.asked(raided.account(Role.MODERATOR))
        assert server.received == []

    def test_nobody_hides_behind_the_owner_of_a_style(self, raided: Horde, server: HttpsServer) -> None:
        owner = raided.account(Role.TRUSTED, amount=1000)
        style = made(raided, owner, sharedkey=shared_key(raided, owner))
        with unchanged(raided.platform):
            assert_refused(raided.ask(style=style), 403, "UntrustedUnsafeIP", "address")
        raided.asked(owner, style=style)

    @pytest.mark.parametrize(
        "answer", [reply(body=b"0.92"), reply(429), reply(500), reply(body=b"who knows?")]
    )
    def test_nobody_is_refused_unless_the_checker_is_sure(
        self, raided: Horde, server: HttpsServer, answer: Any
    ) -> None:
        server.answer = answer
        raided.asked()
        assert len(server.received) == 1

    def test_a_checker_that_does_not_answer_keeps_nobody_waiting(
        self, raided: Horde, server: HttpsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ip_safety, "CHECK_SECONDS", 0.1)
        server.answer = lambda handler: handler.rfile.read(1)
        raided.asked()

    def test_outside_raid_mode_nobody_is_asked_about(self, raided: Horde, server: HttpsServer) -> None:
        change(raided.platform, "UPDATE modes SET raid = false")
        raided.asked()
        assert server.received == []

    def test_what_workers_do_not_do_is_not_told(self, raided: Horde) -> None:
        answer = raided.ask(raided.account(Role.TRUSTED)).json
        assert answer.keys() == {"id", "kudos"}
        assert "explain" not in raided.check(answer["id"])
        assert "explain" not in raided.status(answer["id"])


@pytest.fixture
def filtering(horde: Horde, moderator: Account) -> Horde:
    """With filters that leave nothing of what they find."""
    for expression, kind in (("forbidden fruit", 10), ("garden", 20)):
        new = {"regex": expression, "filter_type": kind, "description": "test", "replacement": ""}
        assert horde.call("PUT", "/filters", moderator, json=new).status_code == 200
    forget(horde.platform)
    return horde


def punished(horde: Horde) -> bool:
    return bool(horde.platform.cache.exists(TIMEOUTS))


class TestPrompts:
    SUSPICIOUS = "forbidden fruit garden "

    @pytest.mark.parametrize(("length", "rc"), [(7000, None), (7001, "BadRequest")])
    def test_what_must_be_rewritten_has_7000_characters_at_most(
        self, filtering: Horde, length: int, rc: str | None
    ) -> None:
        positive = self.SUSPICIOUS + "x" * (length - len(self.SUSPICIOUS))
        response = filtering.ask(prompt=f"{positive}###{'y' * 9000}")
        if rc is None:
            assert response.status_code == 202
        else:
            assert_refused(response, 400, rc, "7000 characters")
        assert not punished(filtering)

    def test_an_innocent_prompt_may_be_longer(self, filtering: Horde) -> None:
        filtering.asked(prompt="forbidden fruit " + "x" * 7000)

    def test_a_suspicious_one_of_which_nothing_is_left(self, filtering: Horde) -> None:
        new = {"regex": "fruit", "filter_type": 20, "description": "test", "replacement": ""}
        filtering.call("PUT", "/filters", filtering.account(Role.MODERATOR), json=new)
        forget(filtering.platform)
        assert_refused(filtering.ask(prompt="forbidden fruit ### blurry"), 400, "CorruptPrompt", "prompt")
        assert punished(filtering)

    def test_what_only_an_unsafe_model_forbids_has_no_consequences(self, filtering: Horde) -> None:
        with unchanged(filtering.platform):
            response = filtering.ask(prompt="forbidden fruit ### a garden", models=["Deliberate"])
            assert_refused(response, 400, "CorruptPrompt")
        assert not punished(filtering)
        filtering.asked(prompt="forbidden fruit ### a garden")
        filtering.asked(prompt="a fox", models=["Deliberate"])


Facts = dict[str, Any]


def filled(facts: Facts, wrong: Callable[[Facts], Any]) -> Any:
    """A body with every field that the document knows, which all hold what `wrong` makes."""
    if "properties" in facts:
        return {name: filled(inner, wrong) for name, inner in facts["properties"].items()}
    if "properties" in facts.get("items", {}):
        return [filled(facts["items"], wrong)]
    return wrong(facts)


def leaves() -> dict[str, Facts]:
    """What the document says of all fields that hold no others, by dotted path."""
    found = {}
    for place in places(GenerationInputStable):
        inside_a_list = place.path[-1] == 0
        if "properties" not in {**place.facts, **place.facts.get("items", {})} and not inside_a_list:
            found[".".join(map(str, place.path))] = place.facts
    return found


def another_type(facts: Facts) -> Any:
    return {"string": 5, "boolean": "true", "array": {}, "object": []}.get(facts["type"], "1")


class TestBodies:
    """Whatever does not fit is told at once."""

    @staticmethod
    def errors(response: TestResponse) -> dict[str, str]:
        assert response.status_code == 400
        assert response.json["rc"]
        assert response.json["message"] == "Input payload validation failed"
        return dict(response.json["errors"])

    def refused(self, horde: Horde, content: Any) -> dict[str, str]:
        with unchanged(horde.platform):
            return self.errors(horde.call("POST", "/generate/async", ANONYMOUS_KEY, json=content))

    def test_all_fields_are_null(self, horde: Horde) -> None:
        errors = self.refused(horde, filled(published(GenerationInputStable), lambda facts: None))
        assert errors.keys() == leaves().keys()
        assert all("null" in text for text in errors.values())

    def test_all_fields_are_of_another_type(self, horde: Horde) -> None:
        errors = self.refused(horde, filled(published(GenerationInputStable), another_type))
        assert errors.keys() == leaves().keys()

    @pytest.mark.parametrize("bound", ["minimum", "maximum"])
    def test_all_numbers_are_out_of_bounds(self, horde: Horde, bound: str) -> None:
        def beyond(facts: Facts) -> Any:
            if bound in facts:
                return facts[bound] + (1 if bound == "maximum" else -1) * facts.get("multipleOf", 1)
            if facts["type"] == "string":
                return facts.get("enum", ["https://example.com"])[0]
            return {"boolean": True, "array": [], "number": 1.5, "object": {}}[facts["type"]]

        bounded = {path for path, facts in leaves().items() if bound in facts}
        errors = self.refused(horde, {**filled(published(GenerationInputStable), beyond), "prompt": "x"})
        assert errors.keys() == bounded
        assert all(re.search(r"at (least|most) ", errors[path]) for path in bounded)

    @pytest.mark.parametrize("item", [5, None, [], {"a": []}])
    def test_all_lists_hold_something_else(self, horde: Horde, item: Any) -> None:
        lists = {
            "workers": [item],
            "models": ["stable_diffusion", item],
            "extra_source_images": [item],
            "params": {
                "post_processing": ["GFPGAN", item],
                "loras": [{"name": "1"}, item],
                "tis": [item],
                "extra_texts": [item],
                "special": {"a": {}, "b": [item]},
            },
        }
        errors = self.refused(horde, {"prompt": "x", "nsfw": None, **lists})
        if item == {"a": []}:
            assert errors.keys() == {
                "nsfw",
                "workers.0",
                "models.1",
                "extra_source_images.0.image",
                "params.post_processing.1",
                "params.loras.1.name",
                "params.tis.0.name",
                "params.extra_texts.0.text",
                "params.extra_texts.0.reference",
                "params.special.b",
            }
        else:
            assert errors.keys() == {
                "nsfw",
                "workers.0",
                "models.1",
                "extra_source_images.0",
                "params.post_processing.1",
                "params.loras.1",
                "params.tis.0",
                "params.extra_texts.0",
                "params.special.b",
            }

    def test_the_body_is_read_before_the_key_is_missed(self, horde: Horde) -> None:
        for content, blamed in (({"prompt": "a fox", "nsfw": 1}, "nsfw"), ({"prompt": "a fox"}, "apikey")):
            response = horde.call("POST", "/generate/async", json=content)
            assert list(self.errors(response)) == [blamed]
