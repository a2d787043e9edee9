"""Requests with source pictures when there are more of them than one process takes on."""

import base64
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from horde.image import sources
from horde.image.schemas import GenerationInputStable
from horde.image.sources import Sources, read_sources
from horde.platform.errors import BadRequest, HordeError
from horde.platform.runtime import Platform
from tests.https_server import https_server, reply
from tests.platform.test_images import LARGE, USUAL, fill, picture, png_of_size
from tests.support import Horde, make_settings


def asking(**pictures: bytes | str) -> GenerationInputStable:
    fields = {
        field: base64.b64encode(given).decode() if isinstance(given, bytes) else given
        for field, given in pictures.items()
    }
    return GenerationInputStable.model_validate({"prompt": "a lighthouse", **fields})


@pytest.fixture
def platform(shared_horde: Horde) -> Platform:
    return shared_horde.platform


def refused(platform: Platform, request: GenerationInputStable) -> HordeError:
    with pytest.raises(HordeError) as check:
        read_sources(platform, request)
    return check.value


SMALL, HUGE = picture(size=(600, 600)), picture(size=(3000, 3000))


def test_large_ones_are_refused_and_small_ones_are_not(platform: Platform) -> None:
    with ExitStack() as held:
        fill(held, LARGE)
        for request in (asking(source_image=HUGE), asking(source_image=SMALL, source_mask=HUGE)):
            error = refused(platform, request)
            assert (error.status, error.rc) == (503, "TooManyRequests")
            assert "too many large pictures at once; try again in some seconds" in error.message
            assert "Retry-After" in error.headers
        assert read_sources(platform, asking(source_image=SMALL)).image
    assert read_sources(platform, asking(source_image=HUGE)).image


def test_requests_without_pictures_need_no_room(platform: Platform) -> None:
    with ExitStack() as held:
        fill(held, USUAL)
        assert refused(platform, asking(source_image=SMALL)).status == 503
        assert read_sources(platform, asking()) == Sources()


def test_what_is_wrong_with_a_picture_is_told_all_the_same(platform: Platform) -> None:
    with ExitStack() as held:
        fill(held, LARGE)
        error = refused(platform, asking(source_image=png_of_size(3073, 3072)))
        assert isinstance(error, BadRequest)


def test_room_comes_back_after_a_refusal(platform: Platform) -> None:
    for _ in range(10):
        assert refused(platform, asking(source_image=LARGE)).rc == "ImageValidationFailed"
    with ExitStack() as held:
        assert fill(held, LARGE) > 1


def test_fetching_is_bounded_too(platform: Platform, tmp_path: Path) -> None:
    with https_server(tmp_path) as server, ExitStack() as held:
        server.answer = reply(body=SMALL)
        settings = make_settings(tmp_path, outbound_networks="127.0.0.0/8", outbound_ca_file=server.ca_file)
        caller = replace(platform, settings=settings)
        request = asking(source_image=server.url())
        assert read_sources(caller, request).image
        server.received.clear()
        held.enter_context(sources._fetching.hold(10**9))
        error = refused(caller, request)
        assert error.status == 503
        assert "being fetched at once; try again" in error.message
        assert not server.received
        assert read_sources(caller, asking(source_image=SMALL)).image
