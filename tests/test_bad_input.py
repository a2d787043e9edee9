"""Hostile and broken input to the calls that carry the traffic: a clear refusal, and nothing left behind."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image
from werkzeug.test import TestResponse

from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import (
    AGENT,
    MODEL,
    PICTURE,
    WEBP,
    Account,
    Horde,
    another_process,
    assert_refused,
    unchanged,
)

ASYNC, POP, SUBMIT = "/generate/async", "/generate/pop", "/generate/submit"
CALLS = [ASYNC, POP, SUBMIT]
MEGABYTES_20 = 20 * 10**6


class Scene:
    """A horde in which every call would succeed: a worker, a job under way, somebody who may ask."""

    def __init__(self, horde: Horde) -> None:
        self.horde = horde
        self.owner: Account = horde.account(Role.TRUSTED, amount=100)
        horde.asked(self.owner)
        self.job = horde.popped(self.owner)
        self.bodies: dict[str, dict[str, Any]] = {
            ASYNC: {"prompt": "a lighthouse"},
            POP: {"name": "worker", "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 4194304},
            SUBMIT: {"id": self.job["id"], "generation": PICTURE, "seed": 1},
        }

    def send(self, call: str, data: bytes | str, **values: Any) -> TestResponse:
        """Send raw bytes as the body of a call."""
        values = {"content_type": "application/json", "key": self.owner} | values
        return self.horde.call("POST", call, data=data, **values)

    def send_changed(self, call: str, changes: dict[str, Any]) -> TestResponse:
        """Send a call's proper body with some fields changed, `params` merged."""
        body = self.bodies[call] | changes
        return self.horde.call("POST", call, self.owner, json=body)


@pytest.fixture
def scene(horde: Horde) -> Iterator[Scene]:
    """The scene, in which nothing must change; afterwards its calls still succeed."""
    scene = Scene(horde)
    with unchanged(horde.platform):
        yield scene
    assert horde.submitted(scene.owner, scene.job["id"]) > 0


def assert_4xx(response: TestResponse) -> None:
    """Refused as the caller's fault, in JSON, with a text and a code."""
    assert 400 <= response.status_code < 500, (response.status_code, response.data[:300])
    content = response.json
    assert len(content["message"]) > 10
    assert content["rc"]


@pytest.mark.parametrize("call", CALLS)
class TestBodies:
    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b" ",
            b"{",
            b'{"prompt": "a',
            b"prompt=a",
            b"{'prompt': 'a'}",
            b'{"prompt": "a",}',
            b'{"a": "\\ud800"}',
            b'{"a": \xff}',
            b'{"a": "\xed\xa0\x80"}',
            b"\xef\xbb\xbf{}",
            b'{"a": "\n"}',
            b'{"a": "\x00"}',
            b"{}{}",
            b"\x1f\x8b\x08\x00",
        ],
    )
    def test_no_json(self, scene: Scene, call: str, data: bytes) -> None:
        response = scene.send(call, data)
        assert_refused(response, 400, "BadRequest")

    @pytest.mark.parametrize("data", ["null", "[]", "1", '"text"', "true", "[{}]"])
    def test_no_object(self, scene: Scene, call: str, data: str) -> None:
        response = scene.send(call, data)
        assert_4xx(response)
        assert response.json["errors"]

    def test_not_declared_as_json(self, scene: Scene, call: str) -> None:
        data = json.dumps(scene.bodies[call])
        for declared in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None):
            assert_refused(scene.send(call, data, content_type=declared), 400, "BadRequest", "JSON")

    def test_a_body_that_says_nothing_of_what_is_required(self, scene: Scene, call: str) -> None:
        response = scene.send(call, "{}")
        assert_4xx(response)
        assert set(response.json["errors"].values()) == {"is required"}

    @pytest.mark.parametrize("opening", ["[", '{"a":', '{"params":{"special":{"a":'])
    @pytest.mark.parametrize("depth", [1000, 1_000_000])
    def test_deep_nesting(self, scene: Scene, call: str, opening: str, depth: int) -> None:
        closing = {"[": "]", '{"a":': "}"}.get(opening, "}}}")
        deep = opening * depth + "1" + closing * depth
        proper = json.dumps(scene.bodies[call])[:-1]
        assert_4xx(scene.send(call, deep))
        assert_4xx(scene.send(call, f'{proper}, "unknown": {deep}}}'))

    def test_twenty_megabytes(self, scene: Scene, call: str) -> None:
        field = {ASYNC: "prompt", POP: "name", SUBMIT: "generation"}[call]
        for filling in ("x", "é", "word ", "\\"):
            long = filling * (MEGABYTES_20 // len(filling.encode()))
            assert_4xx(scene.send_changed(call, {field: long}))

    def test_twenty_megabytes_that_are_no_json(self, scene: Scene, call: str) -> None:
        for data in (
            b"x" * MEGABYTES_20,
            b"[" * MEGABYTES_20,
            b'"' + b"x" * MEGABYTES_20,
            b"1" * MEGABYTES_20,
        ):
            assert_4xx(scene.send(call, data))

    def test_more_than_the_server_accepts(self, scene: Scene, call: str) -> None:
        with another_process(scene.horde, max_body_mib=1) as small:
            data = json.dumps(scene.bodies[call] | {"unknown": "x" * 2**20})
            response = small.call("POST", call, scene.owner, data=data, content_type="application/json")
            assert_refused(response, 413, "PayloadTooLarge", "larger")

    def test_nul_characters(self, scene: Scene, call: str) -> None:
        field = {ASYNC: "prompt", POP: "name", SUBMIT: "id"}[call]
        for changes in ({field: "a\0b"}, {field: "\\\0"}, {"unknown": [{"a\0": 1}]}, {field: "\0" * 100_000}):
            response = scene.send_changed(call, changes)
            assert_refused(response, 400, "NulByteInPayload", "NUL")

    def test_nul_characters_in_headers(self, scene: Scene, call: str) -> None:
        data = json.dumps(scene.bodies[call])
        assert_4xx(scene.send(call, data, key="a\0b"))
        if call == ASYNC:
            assert_4xx(scene.send(call, data, headers={"Client-Agent": "a\0b"}))

    @pytest.mark.parametrize("key", ["x" * 22, "", "0", "00000000000", "é" * 22, "x" * 10_000, "' OR 1=1 --"])
    def test_wrong_keys(self, scene: Scene, call: str, key: str) -> None:
        data = json.dumps(scene.bodies[call])
        response = scene.send(call, data, key=key)
        assert_4xx(response)
        if key:
            assert_refused(response, 401, "InvalidAPIKey", "key")
        else:
            assert set(response.json["errors"]) == {"apikey"}

    def test_no_key(self, scene: Scene, call: str) -> None:
        response = scene.send(call, json.dumps(scene.bodies[call]), key=None)
        assert_4xx(response)
        assert ANONYMOUS_KEY in response.json["errors"]["apikey"]


HUGE = [2**31, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400]
"""Numbers too large for some field of each call. Further ones are written in another way, below."""

FIELDS = {
    ASYNC: [
        *(("params", name) for name in ("width", "height", "steps", "n", "seed_variation", "clip_skip")),
        ("params", "cfg_scale"),
        ("params", "denoising_strength"),
    ],
    POP: [("threads",), ("amount",)],
    SUBMIT: [],
}


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return value


class TestFields:
    @pytest.mark.parametrize(
        ("call", "path"), [(call, path) for call, paths in FIELDS.items() for path in paths]
    )
    def test_huge_numbers(self, scene: Scene, call: str, path: tuple[str, ...]) -> None:
        for number in HUGE:
            response = scene.send_changed(call, nested(path, number))
            assert_4xx(response)
            assert set(response.json["errors"]) == {".".join(path)}

    @pytest.mark.parametrize(("call", "path"), [(POP, ("max_pixels",)), (SUBMIT, ("seed",))])
    def test_numbers_beyond_64_bits(self, scene: Scene, call: str, path: tuple[str, ...]) -> None:
        for number in (2**63, -(2**63) - 1, 10**30, 10**400):
            response = scene.send_changed(call, nested(path, number))
            assert_4xx(response)
            assert set(response.json["errors"]) == {".".join(path)}

    @pytest.mark.parametrize("number", ["1e400", "-1e400", "1e19", "0.5", "1" * 5000, "NaN", "Infinity"])
    @pytest.mark.parametrize(("call", "field"), [(ASYNC, "params.n"), (POP, "max_pixels"), (SUBMIT, "seed")])
    def test_numbers_written_in_unusual_ways(self, scene: Scene, call: str, field: str, number: str) -> None:
        proper = json.dumps(scene.bodies[call] | nested(tuple(field.split(".")), "NUMBER"))
        response = scene.send(call, proper.replace('"NUMBER"', number))
        assert_4xx(response)

    @pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}, ["a"], {"a": 1}])
    @pytest.mark.parametrize(
        ("call", "path"),
        [
            (ASYNC, ("prompt",)),
            (ASYNC, ("params", "sampler_name")),
            (ASYNC, ("params", "seed")),
            (ASYNC, ("style",)),
            (POP, ("name",)),
            (POP, ("bridge_agent",)),
            (SUBMIT, ("id",)),
            (SUBMIT, ("state",)),
        ],
    )
    def test_something_else_than_text(
        self, scene: Scene, call: str, path: tuple[str, ...], value: Any
    ) -> None:
        response = scene.send_changed(call, nested(path, value))
        assert_4xx(response)
        assert set(response.json["errors"]) == {".".join(path)}

    @pytest.mark.parametrize("value", [None, "1", "a", True, [], {}])
    @pytest.mark.parametrize(
        ("call", "path"),
        [
            (ASYNC, ("params", "width")),
            (ASYNC, ("params", "cfg_scale")),
            (POP, ("threads",)),
            (SUBMIT, ("seed",)),
        ],
    )
    def test_something_else_than_a_number(
        self, scene: Scene, call: str, path: tuple[str, ...], value: Any
    ) -> None:
        response = scene.send_changed(call, nested(path, value))
        assert_4xx(response)
        assert set(response.json["errors"]) == {".".join(path)}

    @pytest.mark.parametrize(
        ("call", "changes", "where"),
        [
            (ASYNC, {"nsfw": "true"}, "nsfw"),
            (ASYNC, {"r2": 1}, "r2"),
            (ASYNC, {"params": []}, "params"),
            (ASYNC, {"params": None}, "params"),
            (ASYNC, {"models": MODEL}, "models"),
            (ASYNC, {"models": [None]}, "models.0"),
            (ASYNC, {"models": ["x" * 256]}, "models.0"),
            (ASYNC, {"models": ["x"] * 1001}, "models"),
            (ASYNC, {"workers": {"a": 1}}, "workers"),
            (ASYNC, {"proxied_account": "x" * 256}, "proxied_account"),
            (ASYNC, {"params": {"loras": [{}]}}, "params.loras.0.name"),
            (ASYNC, {"params": {"loras": [{"name": "1"}] * 101}}, "params.loras"),
            (ASYNC, {"params": {"post_processing": ["GFPGAN", "GFPGAN"]}}, "params.post_processing"),
            (ASYNC, {"params": {"sampler_name": "K_EULER"}}, "params.sampler_name"),
            (ASYNC, {"params": {"special": {"a": 1}}}, "params.special.a"),
            (ASYNC, {"params": {"seed": "1" * 1001}}, "params.seed"),
            (POP, {"models": [1]}, "models.0"),
            (POP, {"models": ["ab"]}, "models.0"),
            (POP, {"blacklist": "ugly"}, "blacklist"),
            (POP, {"allow_lora": "yes"}, "allow_lora"),
            (POP, {"priority_usernames": [None]}, "priority_usernames.0"),
            (SUBMIT, {"state": "done"}, "state"),
            (SUBMIT, {"gen_metadata": {}}, "gen_metadata"),
            (SUBMIT, {"gen_metadata": [{"type": "lora", "value": "?"}]}, "gen_metadata.0.value"),
            (SUBMIT, {"gen_metadata": [{"type": "censorship"}]}, "gen_metadata.0.value"),
        ],
    )
    def test_what_does_not_fit(self, scene: Scene, call: str, changes: dict[str, Any], where: str) -> None:
        response = scene.send_changed(call, changes)
        assert_4xx(response)
        assert set(response.json["errors"]) == {where}

    def test_all_misfits_are_told_at_once(self, scene: Scene) -> None:
        response = scene.send_changed(ASYNC, {"prompt": "", "nsfw": 1, "params": {"n": 0, "width": 65}})
        assert set(response.json["errors"]) == {"prompt", "nsfw", "params.n", "params.width"}


def enormous_picture() -> bytes:
    """A small file that says, rightly, that it holds 256 million pixels."""
    target = io.BytesIO()
    Image.new("1", (16_000, 16_000)).save(target, "PNG", compress_level=1)
    return target.getvalue()


class TestUploads:
    def test_no_picture(self, scene: Scene) -> None:
        url = scene.job["r2_upload"]
        for data in (b"", b"text", b"\0" * 1000, WEBP[:-10], b"<svg/>", b"GIF89a" + b"\0" * 100):
            assert_refused(scene.horde.fetch("PUT", url, data), 400, "ImageValidationFailed")

    def test_too_large(self, scene: Scene) -> None:
        response = scene.horde.fetch("PUT", scene.job["r2_upload"], WEBP + b"\0" * 20 * 2**20)
        assert_refused(response, 413, "SourceImageSizeExceeded", "20 MiB")
        bomb = enormous_picture()
        response = scene.horde.fetch("PUT", scene.job["r2_upload"], bomb)
        assert_refused(response, 400, "SourceImageResolutionExceeded", "pixels")
        encoded = "data:image/png;base64," + base64.b64encode(bomb).decode()
        response = scene.send_changed(SUBMIT, {"generation": encoded})
        assert_refused(response, 400, "SourceImageResolutionExceeded", "pixels")

    def test_forged_addresses(self, scene: Scene) -> None:
        parts = urlsplit(scene.job["r2_upload"])
        query = dict(pair.split("=") for pair in parts.query.split("&"))
        expires, signature = query["X-Expires"], query["X-Signature"]
        other = "0" * 8 + parts.path[-37 + 8 :]
        forged = [
            f"{parts.path}?X-Expires={int(expires) + 1}&X-Signature={signature}",
            f"{parts.path}?X-Expires={expires}&X-Signature={signature[:-1]}",
            f"{parts.path}?X-Expires={expires}&X-Signature={'0' * len(signature)}",
            f"{parts.path}?X-Expires={expires}&X-Signature=é",
            f"{parts.path}?X-Expires=&X-Signature={signature}",
            f"{parts.path}?X-Expires=1e9&X-Signature={signature}",
            parts.path,
            f"/objects/{other}?{parts.query}",
            f"/objects/..%2f{other}?{parts.query}",
        ]
        for address in forged:
            assert_4xx(scene.horde.client.put(address, data=WEBP))
        assert scene.horde.fetch("GET", scene.job["r2_upload"]).status_code == 403

    def test_an_address_to_read_is_none_to_write(self, scene: Scene) -> None:
        with scene.horde.client.application.test_request_context():
            url = scene.horde.platform.store.download_url(f"{scene.job['id']}.webp")
        assert_refused(scene.horde.fetch("PUT", url, WEBP), 403, "Forbidden", "not valid")

    def test_expired_addresses(self, scene: Scene) -> None:
        with another_process(scene.horde, signed_url_seconds=-1) as late:
            key = f"{scene.job['id']}.webp"
            for method, make in (
                ("PUT", late.platform.store.upload_url),
                ("GET", late.platform.store.download_url),
            ):
                response = scene.horde.fetch(method, make(key), WEBP)
                assert_refused(response, 403, "Forbidden", "expired")


class TestResults:
    def test_of_somebody_elses_job(self, scene: Scene) -> None:
        response = scene.horde.submit(ANONYMOUS_KEY, scene.job["id"])
        assert_refused(response, 403, "WrongCredentials", "credentials")

    def test_that_are_no_picture(self, scene: Scene) -> None:
        for generation in (
            "",
            "R3",
            "no picture",
            "https://example.com/a.webp",
            "data:;base64,",
            PICTURE[:30],
        ):
            response = scene.send_changed(SUBMIT, {"generation": generation})
            assert_refused(response, 400, "ImageValidationFailed", "Image validation failed")


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ASYNC), ("DELETE", POP), ("PUT", SUBMIT), ("POST", "/generate/check/1"), ("PATCH", ASYNC)],
)
def test_wrong_methods(scene: Scene, method: str, path: str) -> None:
    assert_refused(scene.horde.call(method, path, scene.owner, json={}), 405, "MethodNotAllowed", "method")


@pytest.mark.parametrize("path", [ASYNC + "/", "/generate/no-such-call", "/generate/async/x"])
def test_wrong_paths(scene: Scene, path: str) -> None:
    assert_refused(scene.horde.call("POST", path, scene.owner, json={}), 404, "NotFound")
