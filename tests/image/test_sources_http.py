"""Source pictures over HTTP: from the request to the worker's hands, and what they cost."""

import base64
import os
import time
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from horde.generation import sweep
from horde.kudos.rules import kudos
from horde.users.rules import Role
from tests.https_server import HttpsServer
from tests.image.conftest import RED, text
from tests.support import (
    CASCADE,
    MODEL,
    PAINTER,
    Account,
    Horde,
    assert_books_balance,
    change,
    files,
    picture,
    unchanged,
)

LIME, BLUE = picture(colour="lime"), picture(colour="blue")
OLD_AGENT = "AI Horde Worker:13:https://example.com"
"""Software that makes img2img and cannot download its pictures."""
REMIX = {"models": [CASCADE], "source_processing": "remix"}


def objects(horde: Horde) -> dict[str, bytes]:
    """What the store holds, by key."""
    return {path.name: path.read_bytes() for path in files(horde.platform)}


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers, who may also send several extra pictures."""
    return horde.account(Role.TRUSTED, username="Owner", amount=1000)


Spelling = Callable[[HttpsServer], str]
SPELLINGS: list[Spelling] = [
    lambda _: text(RED),
    lambda _: "data:image/webp;base64," + text(RED),
    lambda server: server.url("/red"),
]


class TestToTheWorker:
    @pytest.mark.parametrize("spelled", SPELLINGS, ids=["base64", "data", "https"])
    def test_a_worker_gets_links_to_what_was_sent(
        self, fetching: Horde, server: HttpsServer, owner: Account, spelled: Spelling
    ) -> None:
        request = fetching.asked(
            source_image=spelled(server), source_mask=text(LIME), source_processing="inpainting"
        )
        job = fetching.popped(owner, models=[MODEL, PAINTER])
        assert fetching.fetch("GET", job["source_image"]).data == RED
        assert fetching.fetch("GET", job["source_mask"]).data == LIME
        assert job["source_processing"] == "inpainting"
        assert job["extra_source_images"] is None
        assert objects(fetching) == {f"{request}_src.webp": RED, f"{request}_msk.webp": LIME}
        assert "source" not in str(job["payload"])

    def test_an_old_worker_gets_base64(self, horde: Horde, owner: Account) -> None:
        horde.asked(source_image=text(RED), source_mask=text(LIME))
        job = horde.popped(owner, bridge_agent=OLD_AGENT)
        assert (job["source_image"], job["source_mask"]) == (text(RED), text(LIME))

    def test_what_is_no_webp_is_handed_on_as_webp(self, horde: Horde, owner: Account) -> None:
        for agent in (OLD_AGENT, None):
            horde.asked(source_image=text(picture(24, 16, format="PNG")))
            offer = {"bridge_agent": agent} if agent else {}
            given = horde.popped(owner, **offer)["source_image"]
            data = base64.b64decode(given) if agent else horde.fetch("GET", given).data
            assert (data[:4], data[8:12]) == (b"RIFF", b"WEBP")

    @pytest.mark.parametrize("processing", ["img2img", "outpainting"])
    def test_the_processing_is_handed_on(self, horde: Horde, owner: Account, processing: str) -> None:
        horde.asked(source_image=text(RED), source_processing=processing)
        assert horde.popped(owner, models=[MODEL, PAINTER])["source_processing"] == processing

    @pytest.mark.parametrize("processing", ["inpainting", "outpainting", "remix"])
    def test_without_a_picture_there_is_nothing_to_process(
        self, horde: Horde, owner: Account, processing: str
    ) -> None:
        models = [CASCADE] if processing == "remix" else [MODEL]
        horde.asked(models=models, source_image="", source_processing=processing)
        job = horde.popped(owner, models=[*models, PAINTER])
        assert (job["source_processing"], job["source_image"], job["source_mask"]) == ("img2img", None, None)
        assert job["extra_source_images"] is None
        assert objects(horde) == {}

    @pytest.mark.parametrize("spelled", SPELLINGS, ids=["base64", "data", "https"])
    def test_extra_pictures_come_in_order_with_their_strengths(
        self, fetching: Horde, server: HttpsServer, owner: Account, spelled: Spelling
    ) -> None:
        extra = [
            {"image": text(BLUE), "strength": 0.25},
            {"image": spelled(server)},
            {"image": text(LIME), "strength": -1, "unknown": True},
        ]
        request = fetching.asked(owner, source_image=text(LIME), extra_source_images=extra, **REMIX)
        job = fetching.popped(owner, models=[CASCADE])
        given = job["extra_source_images"]
        assert [each.keys() for each in given] == [{"image", "strength"}] * 3
        assert [each["strength"] for each in given] == [0.25, 1.0, -1.0]
        assert [fetching.fetch("GET", each["image"]).data for each in given] == [BLUE, RED, LIME]
        assert fetching.fetch("GET", job["source_image"]).data == LIME
        assert (job["source_processing"], job["source_mask"]) == ("remix", None)
        names = [f"{request}_src.webp", *(f"{request}_exra_src_{number}.webp" for number in range(3))]
        assert sorted(objects(fetching)) == sorted(names)

    def test_extra_pictures_can_do_without_a_first_one(self, horde: Horde, owner: Account) -> None:
        horde.asked(extra_source_images=[{"image": text(BLUE)}], **REMIX)
        job = horde.popped(owner, models=[CASCADE])
        assert (job["source_image"], job["source_processing"]) == (None, "remix")
        assert horde.fetch("GET", job["extra_source_images"][0]["image"]).data == BLUE

    def test_five_extra_pictures(self, horde: Horde, owner: Account) -> None:
        colours = [picture(colour=name) for name in ("red", "green", "blue", "white", "black")]
        horde.asked(owner, extra_source_images=[{"image": text(each)} for each in colours], **REMIX)
        given = horde.popped(owner, models=[CASCADE])["extra_source_images"]
        assert [horde.fetch("GET", each["image"]).data for each in given] == colours

    def test_every_worker_gets_them_and_after_a_loss_the_next(self, horde: Horde, owner: Account) -> None:
        horde.asked(source_image=text(RED), params={"n": 3})
        jobs = [horde.popped(owner, "first", amount=2), horde.popped(owner, "second")]
        assert horde.submitted(owner, jobs[0]["id"], state="faulted") == 0
        jobs.append(horde.popped(owner, "third", bridge_agent=OLD_AGENT))
        assert [horde.fetch("GET", job["source_image"]).data for job in jobs[:2]] == [RED, RED]
        assert jobs[2]["source_image"] == text(RED)

    def test_workers_without_source_images_do_not_get_the_request(self, horde: Horde, owner: Account) -> None:
        horde.asked(source_image=text(RED))
        assert horde.skipped(owner, allow_img2img=False) == {"img2img": 1}
        assert horde.skipped(owner, bridge_agent="AI Horde Sample Worker:1:x") == {"bridge_version": 1}
        assert horde.popped(owner)["ids"]


class TestLinks:
    """A link is signed when a worker takes the job, however long the request has waited."""

    def test_they_hold_from_the_pop_on(
        self, horde: Horde, owner: Account, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        valid = horde.platform.settings.signed_url_seconds
        extra = [{"image": text(BLUE)}]
        fields = {"source_image": text(RED), "source_mask": text(LIME), "extra_source_images": extra}
        horde.asked(owner, **fields, **REMIX)
        start, real = time.time(), time.time

        def pass_by(seconds: float) -> None:
            monkeypatch.setattr(time, "time", lambda: real() + seconds)

        pass_by(valid + 600)
        job = horde.popped(owner, models=[CASCADE])
        links = [job["source_image"], job["source_mask"], job["extra_source_images"][0]["image"]]
        for link in links:
            (expires,) = parse_qs(urlsplit(link).query)["X-Expires"]
            assert int(expires) - start == pytest.approx(2 * valid + 600, abs=3)
        pass_by(2 * valid + 590)
        assert [horde.fetch("GET", link).data for link in links] == [RED, LIME, BLUE]
        pass_by(2 * valid + 610)
        assert {horde.fetch("GET", link).status_code for link in links} == {403}

    def test_they_only_read_this_picture(self, horde: Horde, owner: Account) -> None:
        request = horde.asked(source_image=text(RED), source_mask=text(LIME))
        link = horde.popped(owner)["source_image"]
        assert horde.fetch("PUT", link, BLUE).status_code == 403
        assert horde.fetch("GET", link.replace("_src", "_msk")).status_code == 403
        assert objects(horde)[f"{request}_src.webp"] == RED


class TestKeeping:
    def test_pictures_stay_as_long_as_their_request(self, horde: Horde, owner: Account) -> None:
        request = horde.asked(owner, extra_source_images=[{"image": text(BLUE)}] * 2, **REMIX)
        long_ago = time.time() - 9 * 24 * 3600
        for path in files(horde.platform):
            os.utime(path, (long_ago, long_ago))
        change(horde.platform, "UPDATE requests SET created = now() - interval '9 days'")
        assert sweep.delete_old_pictures(horde.platform) == 0
        job = horde.popped(owner, models=[CASCADE])
        assert [horde.fetch("GET", each["image"]).data for each in job["extra_source_images"]] == [BLUE] * 2
        horde.submitted(owner, job["id"], state="faulted")
        horde.cancel(request)
        change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
        change(horde.platform, "UPDATE jobs SET finished = now() - interval '1 hour'")
        assert sweep.expire_requests(horde.platform) == 1
        assert sweep.delete_old_pictures(horde.platform) == 2
        assert objects(horde) == {}

    def test_a_job_whose_pictures_cannot_be_read_stays_in_the_queue(
        self, horde: Horde, owner: Account
    ) -> None:
        request = horde.asked(source_image=text(RED))
        horde.pop(owner, bridge_agent=OLD_AGENT, models=["Deliberate"])
        (path,) = files(horde.platform)
        path.unlink()
        path.mkdir()  # reading a folder fails as a disk does
        assert horde.pop(owner, bridge_agent=OLD_AGENT).status_code == 503
        assert horde.check(request)["waiting"] == 1
        path.rmdir()
        path.write_bytes(RED)
        assert horde.popped(owner, bridge_agent=OLD_AGENT)["source_image"] == text(RED)


PICTURED = [
    {"source_image": text(RED)},
    {"source_image": text(RED), "source_mask": text(LIME), "source_processing": "inpainting"},
    {"source_image": text(RED), "params": {"control_type": "canny", "n": 2}},
    {"source_image": text(RED), "params": {"post_processing": ["RealESRGAN_x4plus"]}, "slow_workers": False},
    {"source_image": text(RED), "extra_source_images": [{"image": text(BLUE)}] * 3, **REMIX},
    {"extra_source_images": [{"image": text(BLUE)}], **REMIX},
]


class TestPrice:
    @pytest.mark.parametrize("fields", PICTURED, ids=range(len(PICTURED)))
    def test_what_is_quoted_is_charged(self, horde: Horde, owner: Account, fields: dict[str, Any]) -> None:
        payer, extra = horde.account(Role.TRUSTED, amount=1000), len(fields.get("extra_source_images", ()))
        offer = {"models": [MODEL, CASCADE, PAINTER], "allow_controlnet": True}
        horde.pop(owner, **offer)
        quoted = horde.ask(payer, **fields, dry_run=True).json["kudos"]
        answer = horde.ask(payer, **fields).json
        assert answer["kudos"] == quoted
        assert 1000 - horde.kudos(payer.balance) == 1 + 5 * extra
        expected = Decimal(1 + 5 * extra)
        for _ in range(fields.get("params", {}).get("n", 1)):
            value = Decimal(str(horde.submitted(owner, horde.popped(owner, **offer)["id"])))
            cost = value * Decimal("1.3" if "source_image" in fields else "1")
            cost = cost * Decimal("1.05") + 1 if "slow_workers" in fields else cost + 1
            expected += kudos(cost * Decimal("1.2")) if "slow_workers" in fields else kudos(cost)
        assert 1000 - horde.kudos(payer.balance) == expected
        assert round(expected) == quoted == horde.status(answer["id"])["kudos"]
        assert_books_balance(horde.platform)

    def test_only_the_tax_is_paid_for_pictures_that_nobody_uses(self, horde: Horde) -> None:
        payer = horde.account(amount=500)
        request = horde.asked(payer, extra_source_images=[{"image": text(BLUE)}], **REMIX)
        assert horde.cancel(request)["kudos"] == 6
        assert horde.kudos(payer.balance) == 494

    def test_a_censored_image_costs_its_tax_alone(self, horde: Horde, owner: Account) -> None:
        payer = horde.account(amount=500)
        horde.asked(payer, source_image=text(RED))
        horde.submitted(owner, horde.popped(owner)["id"], state="censored")
        assert horde.kudos(payer.balance) == 498


class TestDryRun:
    def test_it_touches_neither_store_nor_network(self, fetching: Horde, server: HttpsServer) -> None:
        extra = [{"image": server.url("/extra")}]
        with unchanged(fetching.platform):
            response = fetching.ask(
                source_image=server.url("/image"),
                source_mask=server.url("/mask"),
                extra_source_images=extra,
                dry_run=True,
                **REMIX,
            )
        assert (response.status_code, response.json.keys()) == (200, {"kudos"})
        assert (server.names, server.received) == ([], [])

    def test_it_does_not_mind_what_the_pictures_are(self, horde: Horde) -> None:
        def quoted(image: str) -> float:
            with unchanged(horde.platform):
                response = horde.ask(source_image=image, dry_run=True)
            assert response.status_code == 200, response.json
            return float(response.json["kudos"])

        assert len({quoted(image) for image in (text(RED), "no picture", "http://10.0.0.1/", "x")}) == 1
