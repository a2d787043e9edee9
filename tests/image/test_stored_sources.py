"""Source pictures: where they are kept and for how long, and what workers are handed."""

import base64
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests
from moto.server import ThreadedMotoServer

from horde.generation import sweep
from horde.image.sources import Sources, discard_sources, handed_out, store_sources
from horde.platform.errors import HordeError
from horde.platform.objectstore import make_store
from horde.platform.runtime import Platform
from horde.settings import Settings
from tests.support import Horde, change, files, make_settings, picture

RED, LIME, BLUE = picture(colour="red"), picture(colour="lime"), picture(colour="blue")
ALL = Sources(RED, LIME, (BLUE, RED))
ALL_OPTIONS: dict[str, Any] = {"source_image": True, "source_mask": True, "extra_sources": [1.0, 0.25]}
NONE: dict[str, Any] = {"source_image": False, "source_mask": False, "extra_sources": []}


@pytest.fixture
def platform(shared_horde: Horde, tmp_path: Path) -> Platform:
    """Stores in the test's own folder."""
    settings = make_settings(tmp_path)
    return replace(shared_horde.platform, settings=settings, store=make_store(settings, b"secret"))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def s3_settings() -> Iterator[Settings]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    requests.put(f"http://{host}:{port}/pictures", timeout=10).raise_for_status()
    yield Settings(
        s3_bucket="pictures",
        s3_endpoint_url=f"http://{host}:{port}",
        s3_region="us-east-1",
        s3_access_key_id="test",
        s3_secret_access_key="test",
    )
    server.stop()


@pytest.fixture(params=["local", "s3"])
def storing(request: pytest.FixtureRequest, platform: Platform) -> Platform:
    """With each kind of store in turn."""
    if request.param == "local":
        return platform
    settings = request.getfixturevalue("s3_settings")
    return replace(platform, store=make_store(settings, b"secret"))


class TestStoring:
    def test_keys_are_the_published_ones(self, storing: Platform) -> None:
        request_id = uuid4()
        store_sources(storing, request_id, ALL)
        kept = {
            f"{request_id}_src.webp": RED,
            f"{request_id}_msk.webp": LIME,
            f"{request_id}_exra_src_0.webp": BLUE,
            f"{request_id}_exra_src_1.webp": RED,
        }
        assert {key: storing.store.get(key) for key in kept} == kept
        discard_sources(storing, request_id, ALL)
        assert {storing.store.get(key) for key in kept} == {None}

    def test_nothing_to_store(self, platform: Platform) -> None:
        store_sources(platform, uuid4(), Sources())
        discard_sources(platform, uuid4(), Sources())
        assert files(platform) == set()

    def test_if_one_cannot_be_stored_none_is(self, platform: Platform) -> None:
        request_id = uuid4()
        in_the_way = (
            platform.settings.var_dir / "objects" / str(request_id)[:2] / f"{request_id}_exra_src_1.webp"
        )
        in_the_way.mkdir(parents=True)
        with pytest.raises(HordeError) as check:
            store_sources(platform, request_id, ALL)
        assert check.value.status == 503
        assert files(platform) == set()

    def test_discarding_never_fails(self, platform: Platform) -> None:
        request_id = uuid4()
        discard_sources(platform, request_id, ALL)
        in_the_way = platform.settings.var_dir / "objects" / str(request_id)[:2] / f"{request_id}_src.webp"
        in_the_way.mkdir(parents=True)
        discard_sources(platform, request_id, ALL)

    def test_a_store_out_of_reach(self, platform: Platform) -> None:
        settings = make_settings(
            platform.settings.var_dir,
            s3_bucket="pictures",
            s3_endpoint_url="http://127.0.0.1:9",
            s3_access_key_id="test",
            s3_secret_access_key="test",
        )
        away = replace(platform, store=make_store(settings, b"secret"))
        for use in (
            lambda: store_sources(away, uuid4(), Sources(RED)),
            lambda: handed_out(away, uuid4(), ALL_OPTIONS, links=False),
        ):
            with pytest.raises(HordeError) as check:
                use()
            assert check.value.status == 503
        assert handed_out(away, uuid4(), ALL_OPTIONS, links=True)["source_image"].startswith(
            "http://127.0.0.1:9/"
        )


class TestHandingOut:
    def test_nothing(self, platform: Platform) -> None:
        for links in (True, False):
            assert handed_out(platform, uuid4(), NONE, links=links) == {
                "source_image": None,
                "source_mask": None,
                "extra_source_images": None,
            }

    def test_links(self, storing: Platform, shared_horde: Horde) -> None:
        request_id = uuid4()
        store_sources(storing, request_id, ALL)
        fields = handed_out(storing, request_id, ALL_OPTIONS, links=True)
        extra = fields["extra_source_images"]
        assert [entry["strength"] for entry in extra] == [1.0, 0.25]
        keys = [
            urlsplit(link).path.rpartition("/")[2]
            for link in (fields["source_image"], fields["source_mask"], *(entry["image"] for entry in extra))
        ]
        assert [storing.store.get(key) for key in keys] == [RED, LIME, BLUE, RED]

    def test_links_can_be_fetched(self, platform: Platform, s3_settings: Settings) -> None:
        bucket = replace(platform, store=make_store(s3_settings, b"secret"))
        request_id = uuid4()
        store_sources(bucket, request_id, Sources(RED))
        link = handed_out(bucket, request_id, NONE | {"source_image": True}, links=True)["source_image"]
        answer = requests.get(link, timeout=10)
        assert (answer.content, answer.headers["Content-Type"]) == (RED, "image/webp")

    def test_base64(self, storing: Platform) -> None:
        request_id = uuid4()
        store_sources(storing, request_id, ALL)
        assert handed_out(storing, request_id, ALL_OPTIONS, links=False) == {
            "source_image": text(RED),
            "source_mask": text(LIME),
            "extra_source_images": [
                {"image": text(BLUE), "strength": 1.0},
                {"image": text(RED), "strength": 0.25},
            ],
        }

    def test_a_picture_that_is_gone_is_a_link(self, storing: Platform) -> None:
        request_id = uuid4()
        store_sources(storing, request_id, Sources(RED))
        fields = handed_out(
            storing, request_id, NONE | {"source_image": True, "source_mask": True}, links=False
        )
        assert fields["source_image"] == text(RED)
        assert f"{request_id}_msk.webp?" in fields["source_mask"]


class TestSweeping:
    """Pictures are kept as long as the request that they belong to, however long that is."""

    def test_live_requests_keep_their_pictures(self, horde: Horde) -> None:
        platform, owner = horde.platform, horde.account()
        lifetime = platform.settings.object_lifetime_seconds
        alive, gone = horde.asked(params={"n": 2, "width": 64, "height": 64}), str(uuid4())
        job = horde.popped(owner)["id"]
        horde.submitted(owner, job)
        for request_id in (alive, gone):
            for end in ("_src", "_msk", "_exra_src_0"):
                platform.store.put(f"{request_id}{end}.webp", RED)
        platform.store.put(f"{uuid4()}.webp", RED)
        kept = {f"{alive}_src.webp", f"{alive}_msk.webp", f"{alive}_exra_src_0.webp", f"{job}.webp"}
        self.age(platform, lifetime - 60)
        assert sweep.delete_old_pictures(platform) == 0
        # A picture is stored before its request, so it may be too old when the request is not quite.
        self.age(platform, lifetime + 1)
        change(
            platform, "UPDATE requests SET created = now() - make_interval(secs => :age)", age=lifetime - 5
        )
        assert sweep.delete_old_pictures(platform) == 4
        assert {path.name for path in files(platform)} == kept
        change(platform, "UPDATE requests SET created = now() - interval '9 days'")
        assert sweep.delete_old_pictures(platform) == 0
        change(platform, "DELETE FROM requests")
        assert sweep.delete_old_pictures(platform) == len(kept)
        assert files(platform) == set()

    @staticmethod
    def age(platform: Platform, seconds: float) -> None:
        then = time.time() - seconds
        for path in files(platform):
            os.utime(path, (then, then))
