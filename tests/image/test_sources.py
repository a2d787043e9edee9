"""Source pictures: what is taken from requesters, and how."""

import base64
import io
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from horde.image import sources
from horde.image.schemas import GenerationInputStable
from horde.image.sources import Sources, read_sources
from horde.platform.errors import BadRequest
from horde.platform.images import MAX_IMAGE_BYTES
from horde.platform.objectstore import make_store
from horde.platform.runtime import Platform
from tests.https_server import Answer, HttpsServer, https_server, reply
from tests.platform.test_images import animation, png_of_size
from tests.support import Horde, make_settings, picture

RED, LIME, BLUE = picture(colour="red"), picture(colour="lime"), picture(colour="blue")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer) -> HttpsServer:
    """Answers with a red picture until a test says otherwise."""
    module_server.received.clear()
    module_server.answer = reply(body=RED)
    return module_server


@pytest.fixture
def platform(shared_horde: Horde, server: HttpsServer, tmp_path: Path) -> Platform:
    """May fetch from the test server, and stores in the test's own folder."""
    settings = make_settings(tmp_path, outbound_networks="127.0.0.0/8", outbound_ca_file=server.ca_file)
    return replace(shared_horde.platform, settings=settings, store=make_store(settings, b"secret"))


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def encoded(source: Image.Image, kind: str, **options: Any) -> bytes:
    target = io.BytesIO()
    source.save(target, kind, **options)
    return target.getvalue()


def opened(data: bytes | None) -> Image.Image:
    assert data is not None
    result = Image.open(io.BytesIO(data))
    assert result.format == "WEBP"
    return result


def asking(**fields: Any) -> GenerationInputStable:
    return GenerationInputStable.model_validate({"prompt": "a lighthouse", **fields})


def remix(*pictures: str, **fields: Any) -> GenerationInputStable:
    extra = [{"image": image, "strength": 0.5} for image in pictures]
    return asking(source_processing="remix", extra_source_images=extra, **fields)


def refusal(platform: Platform, request: GenerationInputStable, field: str = "source_image") -> BadRequest:
    with pytest.raises(BadRequest) as check:
        read_sources(platform, request)
    assert check.value.status == 400
    assert check.value.message.startswith(f"{field}: ")
    return check.value


def read(platform: Platform, **fields: Any) -> Image.Image:
    """The source image as it would be stored."""
    return opened(read_sources(platform, asking(**fields)).image)


class TestBase64:
    def test_a_request_without_pictures(self, platform: Platform) -> None:
        assert read_sources(platform, asking()) == Sources()
        assert read_sources(platform, asking(source_image="", source_mask="")) == Sources()

    def test_every_picture_finds_its_place(self, platform: Platform) -> None:
        request = remix(text(BLUE), text(RED), source_image=text(RED), source_mask=text(LIME))
        assert read_sources(platform, request) == Sources(RED, LIME, (BLUE, RED))
        assert read_sources(platform, remix(text(BLUE))) == Sources(extra=(BLUE,))

    @pytest.mark.parametrize(
        "spelled",
        [
            lambda data: text(data),
            lambda data: base64.encodebytes(data).decode(),
            lambda data: f"  {text(data)}\r\n",
            lambda data: base64.urlsafe_b64encode(data).decode(),
            lambda data: f"data:image/png;base64,{text(data)}",
            lambda data: f"data:;base64,{text(data)}",
            lambda data: f"\nDATA:Image/PNG; charset=utf-8;name=a.png;BASE64,{text(data)}",
            lambda data: f"data:text/html;base64,{base64.encodebytes(data).decode()}",
        ],
    )
    def test_spellings(self, platform: Platform, spelled: Any) -> None:
        assert read(platform, source_image=spelled(picture(20, 30, format="PNG"))).size == (20, 30)

    @pytest.mark.parametrize(
        ("data", "rc"),
        [
            (b"", "ImageValidationFailed"),
            (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "ImageValidationFailed"),
            (b"<html>no picture</html>", "ImageValidationFailed"),
            (picture(format="GIF"), "ImageValidationFailed"),
            (picture(300, 300, format="PNG")[:-40], "ImageValidationFailed"),
            (png_of_size(3072, 3072), "ImageValidationFailed"),
            (png_of_size(3073, 3072), "SourceImageResolutionExceeded"),
            (png_of_size(2**31 - 1, 2**31 - 1), "SourceImageResolutionExceeded"),
            (RED + b"\0" * MAX_IMAGE_BYTES, "SourceImageSizeExceeded"),
        ],
        ids=range(9),
    )
    def test_what_is_refused(self, platform: Platform, data: bytes, rc: str) -> None:
        encoded_text = text(data) or "data:image/png;base64,"
        assert refusal(platform, asking(source_image=encoded_text)).rc == rc
        mask = refusal(platform, asking(source_image=text(RED), source_mask=encoded_text), "source_mask")
        assert mask.rc == rc
        extra = refusal(platform, remix(text(RED), encoded_text), "extra_source_images.1")
        assert extra.rc == rc

    @pytest.mark.parametrize("given", ["no base64!", "ü", "data:image/svg+xml,<svg/>", "ftp://example.com/a"])
    def test_other_texts_are_refused(self, platform: Platform, given: str) -> None:
        error = refusal(platform, asking(source_image=given))
        assert error.rc == "ImageValidationFailed"
        assert "Image validation failed" in error.message  # programs look for these words

    def test_nothing_is_encoded_before_all_headers_are_checked(
        self, platform: Platform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def encode(*_args: Any, **_values: Any) -> bytes:
            raise AssertionError("encoded")

        monkeypatch.setattr(sources, "as_webp", encode)
        large = text(png_of_size(4000, 4000))
        refusal(platform, remix(text(RED), large, source_image=text(RED)), "extra_source_images.1")


class TestPixels:
    """What becomes of the pixels on the way."""

    def test_webp_stays_as_it_is(self, platform: Platform) -> None:
        data = encoded(Image.linear_gradient("L").convert("RGB"), "WEBP", quality=40)
        assert read_sources(platform, asking(source_image=text(data))).image == data

    def test_transparency_and_the_colours_under_it_are_kept(self, platform: Platform) -> None:
        source = Image.linear_gradient("L").resize((64, 64)).convert("RGB")
        source.putalpha(Image.radial_gradient("L").resize((64, 64)))
        result = read(platform, source_image=text(encoded(source, "PNG")))
        assert result.getchannel("A").tobytes() == source.getchannel("A").tobytes()
        darkest, brightest = (result.getpixel(place)[0] for place in ((32, 2), (32, 61)))
        assert brightest - darkest > 200

    def test_transparency_of_a_palette(self, platform: Platform) -> None:
        source = Image.new("P", (16, 16), 1)
        source.putpalette([255, 0, 0, 0, 255, 0])
        source.paste(0, (0, 0, 8, 16))
        data = encoded(source, "PNG", transparency=0)
        result = read(platform, source_image=text(data), source_processing="inpainting")
        assert result.getchannel("A").tobytes() == (b"\0" * 8 + b"\xff" * 8) * 16

    def test_a_colour_declared_transparent(self, platform: Platform) -> None:
        source = Image.new("RGB", (16, 16), (64, 80, 96))
        source.paste((255, 0, 0), (0, 0, 8, 16))
        data = encoded(source, "PNG", transparency=(64, 80, 96))
        result = read(platform, source_image=text(data), source_processing="inpainting")
        assert result.getchannel("A").tobytes() == (b"\xff" * 8 + b"\0" * 8) * 16

    def test_masks_stay_black_and_white(self, platform: Platform) -> None:
        mask = Image.new("1", (64, 64), 0)
        mask.paste(1, (13, 17, 40, 50))
        request = asking(source_image=text(RED), source_mask=text(encoded(mask, "PNG")))
        result = opened(read_sources(platform, request).mask).convert("L")
        for before, after in zip(mask.convert("L").tobytes(), result.tobytes(), strict=True):
            assert abs(before - after) < 16

    def test_other_kinds_of_pixels(self, platform: Platform) -> None:
        depth = encoded(Image.new("I;16", (16, 16), 0x4000), "PNG")
        assert abs(read(platform, source_image=text(depth)).convert("L").getpixel((8, 8)) - 0x40) < 4
        ink = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
        red, green, blue = read(platform, source_image=text(ink)).getpixel((8, 8))
        assert red > 200 > 50 > max(green, blue)

    def test_photographs_are_not_turned_and_tell_no_place(self, platform: Platform) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010E] = "where I live"
        for kind in ("JPEG", "WEBP"):
            data = encoded(Image.new("RGB", (40, 20), "teal"), kind, exif=exif)
            stored = read_sources(platform, asking(source_image=text(data))).image
            assert opened(stored).size == (40, 20)
            assert not opened(stored).getexif()
            assert b"where I live" in data
            assert b"where I live" not in (stored or b"")

    @pytest.mark.parametrize("kind", ["WEBP", "PNG"])
    def test_of_an_animation_the_first_frame_is_taken(self, platform: Platform, kind: str) -> None:
        result = read(platform, source_image=text(animation(kind)))
        red, green, blue = result.convert("RGB").getpixel((8, 8))
        assert (result.n_frames, red > 200 > 100 > max(green, blue)) == (1, True)


class TestInpainting:
    OPAQUE = encoded(Image.new("RGB", (16, 16), "red"), "PNG")
    CLEAR = encoded(Image.new("RGBA", (16, 16), (255, 0, 0, 0)), "PNG")

    def test_without_a_mask_the_image_needs_transparency(
        self, platform: Platform, server: HttpsServer
    ) -> None:
        for image in (text(self.OPAQUE), server.url()):
            error = refusal(platform, asking(source_image=image, source_processing="inpainting"))
            assert error.rc == "InpaintingMissingMask"
            assert "source_mask" in error.message
        read(platform, source_image=text(self.CLEAR), source_processing="inpainting")
        server.answer = reply(body=self.CLEAR)
        read(platform, source_image=server.url(), source_processing="inpainting")

    @pytest.mark.parametrize("processing", ["img2img", "outpainting", "remix"])
    def test_nothing_else_does(self, platform: Platform, processing: str) -> None:
        read(platform, source_image=text(self.OPAQUE), source_processing=processing)

    def test_a_mask_will_do(self, platform: Platform) -> None:
        fields = {"source_image": text(self.OPAQUE), "source_mask": text(self.OPAQUE)}
        read(platform, **fields, source_processing="inpainting")


def without_length(body: bytes) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer with a byte now and then, for long."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(RED)))
    handler.end_headers()
    for place in range(len(RED)):
        handler.wfile.write(RED[place : place + 1])
        handler.wfile.flush()
        time.sleep(0.1)


class TestAddresses:
    @pytest.mark.parametrize(
        "answer",
        [reply(body=RED), reply(body=RED, Content_Type="text/html"), without_length(RED)],
        ids=["plain", "other type", "no length"],
    )
    def test_pictures_are_fetched(self, platform: Platform, server: HttpsServer, answer: Answer) -> None:
        server.answer = answer
        assert read_sources(platform, asking(source_image=server.url())).image == RED

    def test_both_ways_mix(self, platform: Platform, server: HttpsServer) -> None:
        request = remix(
            text(BLUE), f" {server.url('/c')}\n", source_image=server.url("/a"), source_mask=text(LIME)
        )
        assert read_sources(platform, request) == Sources(RED, LIME, (BLUE, RED))
        assert [received.path for received in server.received] == ["/a", "/c"]

    def test_redirects_are_followed(self, platform: Platform, server: HttpsServer) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            moved = reply(302, Location="/there")
            (reply(body=RED) if handler.path == "/there" else moved)(handler)

        server.answer = answer
        assert read_sources(platform, asking(source_image=server.url("/here"))).image == RED

    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/a.webp",
            "HTTP://EXAMPLE.COM/a.webp",
            "https://10.0.0.1/a.webp",
            "https://user:secret@example.com/",
            "https://example.com:22/",
            "https://",
            "httpfoo",
            "https://example.com/" + "a" * 5000,
        ],
    )
    def test_some_can_never_be_used(self, platform: Platform, url: str) -> None:
        error = refusal(platform, asking(source_image=url))
        assert error.rc == "SourceImageUrlInvalid"
        assert "https address" in error.message
        assert "secret" not in error.message

    @pytest.mark.parametrize(
        "location", ["https://10.0.0.1/", "https://169.254.169.254/", "http://localhost/"]
    )
    def test_redirects_to_places_inside_are_refused(
        self, platform: Platform, server: HttpsServer, location: str
    ) -> None:
        server.answer = reply(302, Location=location)
        error = refusal(platform, asking(source_image=server.url()))
        assert error.rc == "ImageValidationFailed"

    @pytest.mark.parametrize(
        ("answer", "rc"),
        [
            (reply(404, RED), "ImageValidationFailed"),
            (reply(200, RED, Content_Length=str(len(RED) + 9)), "ImageValidationFailed"),
            (reply(200, b""), "SourceImageUrlInvalid"),
            (reply(200, b"<html>"), "SourceImageUrlInvalid"),
            (reply(200, b"<svg/>", Content_Type="image/svg+xml"), "SourceImageUrlInvalid"),
            (reply(200, picture(format="GIF")), "SourceImageUrlInvalid"),
            (reply(200, picture(300, 300, format="PNG")[:-40]), "SourceImageUnreadable"),
            (reply(200, b"RIFF\x10\0\0\0WEBPVP8 "), "SourceImageUnreadable"),
            (reply(200, png_of_size(3073, 3072)), "SourceImageResolutionExceeded"),
            (reply(200, RED + b"\0" * 5000 * 1024), "SourceImageSizeExceeded"),
            (without_length(RED + b"\0" * 5000 * 1024), "SourceImageSizeExceeded"),
        ],
        ids=range(11),
    )
    def test_what_is_refused(self, platform: Platform, server: HttpsServer, answer: Answer, rc: str) -> None:
        server.answer = answer
        request = asking(source_image=text(RED), source_mask=server.url())
        error = refusal(platform, request, "source_mask")
        assert error.rc == rc
        assert "Image validation failed" in error.message or "Exceeded" in rc

    def test_the_bound_on_bytes_is_inclusive(self, platform: Platform, server: HttpsServer) -> None:
        jpeg = picture(format="JPEG")
        server.answer = reply(body=jpeg + b"\0" * (5000 * 1024 - len(jpeg)))
        assert read(platform, source_image=server.url()).size == (8, 8)

    def test_nobody_is_called_before_all_that_is_known_is_checked(
        self, platform: Platform, server: HttpsServer
    ) -> None:
        for bad in ("http://example.com/", text(png_of_size(4000, 4000)), "no base64!"):
            request = remix(text(RED), bad, source_image=server.url())
            refusal(platform, request, "extra_source_images.1")
        refusal(platform, remix(server.url(), source_image=text(b"?")), "source_image")
        assert server.received == []

    def test_slow_servers_are_left(
        self, platform: Platform, server: HttpsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "FETCH_SECONDS", 0.3)
        server.answer = drip
        begin = time.monotonic()
        error = refusal(platform, asking(source_image=server.url()))
        assert time.monotonic() - begin < 2
        assert error.rc == "ImageValidationFailed"
        assert "in time" in error.message

    def test_all_fetches_together_have_an_end(
        self, platform: Platform, server: HttpsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sources, "ALL_FETCHES_SECONDS", 0.6)

        def dawdle(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(0.25)
            reply(body=RED)(handler)

        server.answer = dawdle
        begin = time.monotonic()
        with pytest.raises(BadRequest, match="in time"):
            read_sources(platform, remix(*[server.url()] * 5))
        assert time.monotonic() - begin < 2
        assert 0 < len(server.received) < 5
