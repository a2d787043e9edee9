"""Requests with source pictures that are refused: with the right code, and without a trace."""

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from werkzeug.test import TestResponse

from horde.kudos import service as ledger
from horde.kudos.rules import BURN, Entry
from horde.users.rules import Role
from tests.https_server import Answer, HttpsServer, reply
from tests.image.conftest import RED, text
from tests.platform.test_images import png_of_size
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    PICTURE,
    Account,
    Horde,
    assert_books_balance,
    assert_refused,
    change,
    files,
    picture,
    scalar,
    unchanged,
)

REMIX = {"models": [CASCADE], "source_processing": "remix"}
OPAQUE = picture(16, 16, format="PNG")
DAMAGED = picture(300, 300, format="PNG")[:-40]
TOO_LARGE, TOO_MANY_BYTES = png_of_size(3073, 3072), RED + b"\0" * 5000 * 1024


@pytest.fixture
def payer(horde: Horde) -> Account:
    """Somebody trusted who can pay for everything upfront."""
    return horde.account(Role.TRUSTED, username="Payer", amount=1000)


def with_picture(place: str, image: str) -> dict[str, Any]:
    """A request that must be paid upfront, with `image` in one place and good pictures before that."""
    fields: dict[str, Any] = {"slow_workers": False, "params": {"n": 2}, "source_image": PICTURE}
    if place == "extra_source_images.1":
        return fields | {"extra_source_images": [{"image": PICTURE}, {"image": image}], **REMIX}
    return fields | {place: image}


PLACES = ("source_image", "source_mask", "extra_source_images.1")


class TestPictures:
    """What is wrong with a picture is told, whichever of them it is; nothing is queued, kept or charged."""

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize(
        ("image", "rc"),
        [
            ("no base64!", "ImageValidationFailed"),
            (text(b"<html>"), "ImageValidationFailed"),
            (text(picture(format="GIF")), "ImageValidationFailed"),
            (text(DAMAGED), "ImageValidationFailed"),
            ("data:image/png;base64,", "ImageValidationFailed"),
            (text(TOO_LARGE), "SourceImageResolutionExceeded"),
            ("http://example.com/a.png", "SourceImageUrlInvalid"),
            ("https://10.0.0.1/a.png", "SourceImageUrlInvalid"),
            ("https://[::1]/a.png", "SourceImageUrlInvalid"),
        ],
        ids=range(9),
    )
    def test_in_the_body(self, horde: Horde, payer: Account, place: str, image: str, rc: str) -> None:
        with unchanged(horde.platform):
            assert_refused(horde.ask(payer, **with_picture(place, image)), 400, rc, f"{place}: ")

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize(
        ("answer", "rc"),
        [
            (reply(404), "ImageValidationFailed"),
            (reply(302, Location="https://10.0.0.1/"), "ImageValidationFailed"),
            (reply(200, b""), "SourceImageUrlInvalid"),
            (reply(200, b"<html>"), "SourceImageUrlInvalid"),
            (reply(200, DAMAGED), "SourceImageUnreadable"),
            (reply(200, TOO_LARGE), "SourceImageResolutionExceeded"),
            (reply(200, TOO_MANY_BYTES), "SourceImageSizeExceeded"),
        ],
        ids=range(7),
    )
    def test_at_an_address(
        self, fetching: Horde, server: HttpsServer, payer: Account, place: str, answer: Answer, rc: str
    ) -> None:
        server.answer = answer
        with unchanged(fetching.platform):
            response = fetching.ask(payer, **with_picture(place, server.url()))
            assert_refused(response, 400, rc, f"{place}: ")
        assert len(server.received) == 1

    @pytest.mark.parametrize("remote", [False, True])
    def test_inpainting_without_a_mask(
        self, fetching: Horde, server: HttpsServer, payer: Account, remote: bool
    ) -> None:
        server.answer = reply(body=OPAQUE)
        fields = {
            "source_image": server.url() if remote else text(OPAQUE),
            "source_processing": "inpainting",
            "slow_workers": False,
        }
        with unchanged(fetching.platform):
            assert_refused(fetching.ask(payer, **fields), 400, "InpaintingMissingMask", "source_mask")

    def test_more_bytes_than_any_picture_may_have(self, horde: Horde, payer: Account) -> None:
        huge = text(RED + b"\0" * 20 * 2**20)
        with unchanged(horde.platform):
            assert_refused(
                horde.ask(payer, source_image=huge), 400, "SourceImageSizeExceeded", "source_image"
            )

    def test_the_caller_can_correct_it_and_ask_again(self, horde: Horde, payer: Account) -> None:
        assert horde.ask(payer, **with_picture("source_image", "x")).status_code == 400
        horde.asked(payer, **with_picture("source_image", PICTURE))
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 1


def store_folder(horde: Horde) -> Path:
    return horde.platform.settings.var_dir / "objects"


def test_without_a_store_nothing_is_queued(horde: Horde, payer: Account) -> None:
    folder, aside = store_folder(horde), store_folder(horde).with_name("aside")
    folder.mkdir(exist_ok=True)
    folder.rename(aside)
    folder.write_text("in the way")
    try:
        with unchanged(horde.platform):
            for place in PLACES:
                response = horde.ask(payer, **with_picture(place, PICTURE))
                assert_refused(response, 503, "ServiceUnavailable", "again")
        horde.asked(payer)
    finally:
        folder.unlink()
        aside.rename(folder)
    horde.asked(payer, **with_picture("source_mask", PICTURE))


def spend(horde: Horde, payer: Account) -> None:
    """Spend all that an account may."""
    with horde.platform.engine.begin() as db:
        spent = ledger.available(db, payer.balance)
        ledger.post(
            db, uuid4(), "admin", [Entry(payer.balance, -spent, "admin"), Entry(BURN, spent, "admin")]
        )


class TestTooLate:
    """What was in order when the request came is not any more when its pictures have been read."""

    @staticmethod
    def meanwhile(server: HttpsServer, happens: Callable[[], object]) -> None:
        """Let something happen while the horde fetches a picture."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            happens()
            reply(body=RED)(handler)

        server.answer = answer

    @staticmethod
    def assert_no_trace(horde: Horde, requests: int = 0) -> None:
        assert files(horde.platform) == set()
        assert scalar(horde.platform, "SELECT count(*) FROM requests") == requests
        assert scalar(horde.platform, "SELECT count(*) FROM queue") == requests
        assert scalar(horde.platform, "SELECT count(*) FROM reservations") == 0
        assert_books_balance(horde.platform)

    def test_too_many_images_wait(self, fetching: Horde, server: HttpsServer, payer: Account) -> None:
        self.meanwhile(server, lambda: fetching.asked(payer, params={"n": 20}))
        response = fetching.ask(payer, source_image=server.url(), params={"n": 20}, slow_workers=False)
        assert_refused(response, 429, "TooManyPrompts", "30")
        self.assert_no_trace(fetching, requests=1)

    def test_the_kudos_are_spent(self, fetching: Horde, server: HttpsServer, payer: Account) -> None:
        self.meanwhile(server, lambda: spend(fetching, payer))
        response = fetching.ask(payer, source_image=server.url(), source_mask=PICTURE, slow_workers=False)
        assert_refused(response, 403, "KudosUpfront", "kudos")
        self.assert_no_trace(fetching)

    def test_the_shared_key_is_used_up(self, fetching: Horde, server: HttpsServer, payer: Account) -> None:
        key = fetching.call("PUT", "/sharedkeys", payer, json={"kudos": 100}).json["id"]
        self.meanwhile(server, lambda: change(fetching.platform, "UPDATE shared_keys SET kudos = 1"))
        response = fetching.ask(key, source_image=server.url())
        assert_refused(response, 403, "SharedKeyInsufficientKudos", "key")
        self.assert_no_trace(fetching)

    def test_the_anonymous_account_has_too_many(self, fetching: Horde, server: HttpsServer) -> None:
        change(fetching.platform, "UPDATE users SET concurrency = 1 WHERE id = 0")
        self.meanwhile(server, fetching.asked)
        assert_refused(fetching.ask(source_image=server.url()), 429, "TooManyPrompts")
        self.assert_no_trace(fetching, requests=1)


def banned(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    return horde.ask(key, agent="My-Project:v0.0.1:My-Contact", **fields)


def in_timeout(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    keep_out = {"ipaddr": "127.0.0.1", "hours": 1}
    moderator = horde.account(Role.MODERATOR)
    assert horde.call("POST", "/operations/ipaddr", moderator, json=keep_out).status_code == 200
    return horde.ask(key, **fields)


def in_maintenance(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    change(horde.platform, "UPDATE modes SET maintenance = true")
    return horde.ask(key, **fields)


def crowded(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    horde.asked(key, params={"n": 20})
    return horde.ask(key, **fields | {"params": {"n": 11}})


def poor(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    return horde.ask(horde.account(amount=15), slow_workers=False, **fields)


def with_shared_key(horde: Horde, key: Account, **fields: Any) -> TestResponse:
    limits = fields.pop("limits")
    shared = horde.call("PUT", "/sharedkeys", key, json=limits).json["id"]
    return horde.ask(shared, **fields)


Ask = Callable[..., TestResponse]
BROKEN: list[tuple[Ask, dict[str, Any], str]] = [
    (Horde.ask, {"params": {"n": 21}}, ""),
    (Horde.ask, {"style": "no such style"}, "StyleNotFound"),
    (in_maintenance, {}, "MaintenanceMode"),
    (Horde.ask, {"webhook": "https://10.0.0.1/"}, "BadRequest"),
    (lambda horde, _key, **fields: horde.ask("x" * 22, **fields), {}, "InvalidAPIKey"),
    (Horde.ask, {"proxied_account": "somebody"}, "OnlyServiceAccountProxy"),
    (Horde.ask, {"extra_source_images": [{"image": "x"}] * 6, **REMIX}, "TooManyExtraSourceImages"),
    (Horde.ask, {"workers": [str(uuid4())]}, "WorkerNotFound"),
    (crowded, {}, "TooManyPrompts"),
    (in_timeout, {}, "TimeoutIP"),
    (Horde.ask, {"params": {"hires_fix": True}, "models": [FLUX]}, "HiResMismatch"),
    (Horde.ask, {"models": [MODEL, "GFPGAN"]}, "UnexpectedModelName"),
    (Horde.ask, {"params": {"special": {"a": {}}}}, "SpecialFieldNeedsSpecialUser"),
    (Horde.ask, {"params": {"control_type": "canny"}, "models": [FLUX]}, "ControlNetMismatch"),
    (Horde.ask, {"params": {"transparent": True}}, "InvalidTransparencyImg2Img"),
    (Horde.ask, {"source_processing": "remix"}, "InvalidRemix"),
    (banned, {}, "BannedClientAgent"),
    (Horde.ask, {"models": [FLUX], "model_requirements": "reject"}, "StepsTooMany"),
    (poor, {}, "KudosUpfront"),
    (with_shared_key, {"limits": {"kudos": 2}}, "SharedKeyInsufficientKudos"),
    (with_shared_key, {"limits": {"max_image_steps": 29}}, "BadRequest"),
    (with_shared_key, {"limits": {"max_image_pixels": 512 * 511}}, "BadRequest"),
]


@pytest.mark.parametrize(
    ("ask", "fields", "rc"), BROKEN, ids=[f"{row[2]}-{i}" for i, row in enumerate(BROKEN)]
)
def test_nobody_is_called_for_a_request_that_breaks_another_rule(
    fetching: Horde, server: HttpsServer, payer: Account, ask: Ask, fields: dict[str, Any], rc: str
) -> None:
    pictures = {"source_image": server.url("/image"), "source_mask": server.url("/mask")}
    response = ask(fetching, payer, **pictures | fields)
    assert 400 <= response.status_code < 500
    assert not rc or response.json["rc"] == rc, response.json
    assert (server.names, server.received) == ([], [])
    assert files(fetching.platform) == set()
