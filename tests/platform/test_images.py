import base64
import io
import struct
import threading
import zlib
from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFile, WebPImagePlugin

from horde.platform import images
from horde.platform.errors import BadRequest, HordeError
from horde.platform.images import (
    as_webp,
    check_header,
    check_image,
    decode_base64_image,
    has_alpha,
    media_type,
    room_for,
)
from tests.platform.gevent_process import run_with_gevent

LIMIT = 3072 * 3072


def picture(kind: str = "PNG", size: tuple[int, int] = (40, 24), mode: str = "RGB", **options) -> bytes:
    source = Image.linear_gradient("L").resize(size).convert(mode)
    target = io.BytesIO()
    source.save(target, kind, **options)
    return target.getvalue()


def animation(kind: str) -> bytes:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "lime", "blue")]
    target = io.BytesIO()
    frames[0].save(target, kind, save_all=True, append_images=frames[1:], duration=100)
    return target.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_of_size(width: int, height: int) -> bytes:
    """A PNG file whose header promises that size and which holds next to nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", zlib.compress(b"\0" * 64))
    return b"\x89PNG\r\n\x1a\n" + body + png_chunk(b"IEND", b"")


def webp_of_size(width: int, height: int) -> bytes:
    """A lossless WebP file whose header promises that size."""
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<IBI", 6, 0x2F, bits) + b"\0"
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def refusal(data: bytes, max_pixels: int = LIMIT) -> BadRequest:
    with pytest.raises(BadRequest) as check:
        check_image(data, max_pixels=max_pixels)
    return check.value


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
    ],
)
def test_still_pictures_pass_and_become_webp(kind, mode):
    data = picture(kind, mode=mode)
    assert check_image(data, max_pixels=40 * 24) == (40, 24)
    result = Image.open(io.BytesIO(as_webp(data, max_pixels=40 * 24)))
    assert (result.format, result.size) == ("WEBP", (40, 24))


def test_webp_comes_back_unchanged():
    data = picture("WEBP", quality=40)
    assert as_webp(data, max_pixels=LIMIT) is data


def test_damaged_webp_does_not_come_back():
    data = picture("WEBP", size=(300, 300), quality=95)
    with pytest.raises(BadRequest, match="Image validation failed"):
        as_webp(data[:-60], max_pixels=LIMIT)


def test_quality_is_used():
    source = Image.effect_noise((200, 200), 80)
    target = io.BytesIO()
    source.save(target, "PNG")
    data = target.getvalue()
    assert len(as_webp(data, quality=50, max_pixels=LIMIT)) < len(as_webp(data, quality=95, max_pixels=LIMIT))


def test_colours_under_transparent_pixels_survive():
    source = Image.radial_gradient("L").convert("RGB")
    source.putalpha(Image.new("L", source.size, 0))
    source.paste((255, 255, 255, 255), (0, 0, 60, 60))
    target = io.BytesIO()
    source.save(target, "PNG")
    result = Image.open(io.BytesIO(as_webp(target.getvalue(), max_pixels=LIMIT)))
    for place in ((200, 200), (128, 128), (100, 220)):
        red, _, _, alpha = result.getpixel(place)
        assert alpha == 0
        assert abs(red - source.getpixel(place)[0]) < 12


def test_sixteen_bit_grey_keeps_its_shades():
    source = Image.new("I;16", (32, 32), 0x4000)
    target = io.BytesIO()
    source.save(target, "PNG")
    assert Image.open(io.BytesIO(target.getvalue())).mode.startswith("I;16")
    result = Image.open(io.BytesIO(as_webp(target.getvalue(), max_pixels=LIMIT))).convert("L")
    assert abs(result.getpixel((9, 9)) - 0x40) <= 2


def test_metadata_is_left_out():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    data = picture("JPEG", exif=exif)
    assert b"where I live" in data
    assert b"where I live" not in as_webp(data, max_pixels=LIMIT)


def test_webp_with_metadata_is_encoded_anew():
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for metadata in ({"exif": exif}, {"xmp": b"<x>where I live</x>"}, {"icc_profile": b"where I live"}):
        data = picture("WEBP", **metadata)
        result = as_webp(data, max_pixels=LIMIT)
        assert b"where I live" in data
        assert b"where I live" not in result
        assert check_image(result, max_pixels=LIMIT) == (40, 24)


def test_a_declared_transparent_colour_is_transparent():
    source = Image.new("RGB", (16, 16), (64, 80, 96))
    source.paste((255, 0, 0), (0, 0, 8, 16))
    target = io.BytesIO()
    source.save(target, "PNG", transparency=(64, 80, 96))
    result = Image.open(io.BytesIO(as_webp(target.getvalue(), max_pixels=LIMIT)))
    assert result.getchannel("A").tobytes() == (b"\xff" * 8 + b"\0" * 8) * 16


@pytest.mark.parametrize("alphas", [b"\0" * 400, b"\0\1" * 200])
def test_broken_palettes_are_refused(alphas):
    body = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 8, 3, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0\0\1\2\xff" * 4)) + png_chunk(b"IEND", b"")
    start = b"\x89PNG\r\n\x1a\n" + body
    palette = png_chunk(b"PLTE", b"abc" * 4) + png_chunk(b"tRNS", alphas)
    for data in (start + pixels, start + palette + pixels):
        with pytest.raises(BadRequest) as check:
            as_webp(data, max_pixels=LIMIT)
        assert check.value.rc == "ImageValidationFailed"


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_animations_are_refused_but_their_first_frame_can_be_had(kind):
    data = animation(kind)
    assert refusal(data).rc == "ImageValidationFailed"
    still = as_webp(data, max_pixels=LIMIT)
    assert check_image(still, max_pixels=LIMIT) == (16, 16)
    red, green, blue = Image.open(io.BytesIO(still)).convert("RGB").getpixel((8, 8))
    assert red > 200 > 100 > max(green, blue)


def test_camera_jpeg_with_preview_is_one_picture():
    target = io.BytesIO()
    frames = [Image.new("RGB", (64, 48), "teal"), Image.new("RGB", (16, 12), "teal")]
    frames[0].save(target, "MPO", save_all=True, append_images=frames[1:])
    assert check_image(target.getvalue(), max_pixels=LIMIT) == (64, 48)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello, this is text",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        picture("GIF"),
        picture("BMP"),
        picture("TIFF"),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"\x89PNG\r\n\x1a\n",
        b"RIFF\x10\0\0\0WEBPVP8 ",
        b"\xff\xd8\xff",
        b"\xff\xd8\xff\xe0\x00\x00" * 50,
    ],
)
def test_other_things_are_refused(data):
    error = refusal(data)
    assert error.rc == "ImageValidationFailed"
    assert "Image validation failed" in error.message


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "JPEG"])
def test_truncated_files_are_refused(kind):
    data = picture(kind, size=(300, 200))
    assert refusal(data[: len(data) // 2]).rc == "ImageValidationFailed"


@given(st.sampled_from(["WEBP", "PNG", "JPEG"]), st.data())
def test_damage_passes_or_is_refused_but_never_breaks(kind, data):
    content = bytearray(picture(kind, mode="RGB"))
    for _ in range(4):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadRequest):
        assert media_type(as_webp(bytes(content), max_pixels=LIMIT)) == "image/webp"


@pytest.mark.parametrize(
    "data",
    [
        png_of_size(60_000, 60_000),
        png_of_size(3073, 3072),
        png_of_size(2**31 - 1, 2**31 - 1),
        webp_of_size(16383, 16383),
        webp_of_size(16383, 600),
        png_of_size(16384, 1),
    ],
)
def test_size_is_refused_by_the_header_before_decoding(data, monkeypatch):
    def decode(self):
        raise AssertionError("decoded")

    for plugin in (ImageFile.ImageFile, WebPImagePlugin.WebPImageFile):
        monkeypatch.setattr(plugin, "load", decode)
    assert refusal(data).rc == "SourceImageResolutionExceeded"


def test_headers_are_checked_without_decoding():
    check_header(png_of_size(3072, 3072), max_pixels=LIMIT)
    for data, rc in (
        (png_of_size(3073, 3072), "SourceImageResolutionExceeded"),
        (picture("GIF"), "ImageValidationFailed"),
        (picture("PNG") + b"\0" * images.MAX_IMAGE_BYTES, "SourceImageSizeExceeded"),
    ):
        with pytest.raises(BadRequest) as check:
            check_header(data, max_pixels=LIMIT)
        assert check.value.rc == rc


def test_highly_compressible_large_png_is_refused():
    target = io.BytesIO()
    Image.new("1", (9000, 9000)).save(target, "PNG", optimize=False)
    assert len(target.getvalue()) < 100_000
    assert refusal(target.getvalue()).rc == "SourceImageResolutionExceeded"


def test_pixel_bound_is_inclusive():
    data = picture("PNG", size=(10, 10))
    assert check_image(data, max_pixels=100) == (10, 10)
    assert refusal(data, 99).rc == "SourceImageResolutionExceeded"


def test_bytes_are_bounded_before_anything():
    data = picture("PNG") + b"\0" * images.MAX_IMAGE_BYTES
    assert refusal(data).rc == "SourceImageSizeExceeded"


def test_text_bomb_in_png_is_refused_or_harmless():
    data = picture("PNG")
    bomb = png_chunk(b"zTXt", b"a\0\0" + zlib.compress(b"\0" * 100_000_000))
    assert refusal(data[:33] + bomb + data[33:]).rc == "ImageValidationFailed"


def test_jpeg_that_repeats_scans_is_refused():
    data = picture("JPEG", progressive=True)
    start = data.rfind(b"\xff\xda")
    assert refusal(data[:-2] + data[start:-2] * 1000 + data[-2:]).rc == "ImageValidationFailed"


def test_jpeg_cannot_hide_headers_behind_junk():
    data = picture("JPEG")
    for junk in (b"\0", b"\xff\xd8", b"\xff\xc8\x00\x02", b"\xff\xf0\x00\x02", b"\xff\xe5\x00\x00"):
        headers = junk + b"\xff\xe5\x00\x02" * 100_000
        assert refusal(data[:2] + headers + data[2:]).rc == "ImageValidationFailed"


@pytest.mark.parametrize("filler", [b"\xff\xe5\x00\x02", b"\xff\xfe\x00\x02", b"\xff"])
def test_jpeg_that_is_all_headers_is_refused(filler):
    data = picture("JPEG")
    assert check_image(data[:2] + filler * 20 + data[2:], max_pixels=LIMIT) == (40, 24)
    assert refusal(data[:2] + filler * 100_000 + data[2:]).rc == "ImageValidationFailed"


def test_large_pictures_take_turns(monkeypatch):
    monkeypatch.setattr(images, "LARGE_WEIGHT", 100)
    monkeypatch.setattr(images, "TINY_PIXELS", 100)
    data = picture("PNG", size=(64, 64))
    sizes = []
    threads = [
        threading.Thread(target=lambda: sizes.append(check_image(data, max_pixels=LIMIT))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sizes == [(64, 64)] * 8
    assert refusal(data[:-40]).rc == "ImageValidationFailed"
    assert check_image(data, max_pixels=LIMIT) == (64, 64)


def fill(held: ExitStack, *files: bytes) -> int:
    """Begin with requests of these pictures until no more are taken on; returns how many were."""
    refusal = None
    taken = 0
    while refusal is None and taken < 200:
        try:
            held.enter_context(room_for(*files))
            taken += 1
        except HordeError as error:
            refusal = error
    assert refusal is not None
    assert (refusal.status, refusal.rc) == (503, "TooManyRequests")
    assert int(refusal.headers["Retry-After"]) > 0
    assert "try again in some seconds" in refusal.message
    return taken


LARGE, USUAL = png_of_size(3072, 3072), png_of_size(1024, 1024)


def test_few_large_pictures_are_taken_on_at_a_time():
    with ExitStack() as held:
        assert 2 <= fill(held, LARGE) <= 8
        assert fill(held, LARGE) == 0
    with ExitStack() as held:
        assert 2 <= fill(held, LARGE, LARGE) <= 4
    with ExitStack() as held:
        assert fill(held, *[LARGE] * 7) == 1


def test_many_usual_ones_are_but_not_any_number():
    with ExitStack() as held:
        assert 40 <= fill(held, USUAL) <= 80
    with ExitStack() as held:
        assert 8 <= fill(held, *[USUAL] * 7) <= 16


def test_bytes_count_too():
    """A request with 20 MiB of picture holds four times that until it is answered."""
    padded = picture() + b"\0" * 19 * 2**20
    with ExitStack() as held:
        assert 2 <= fill(held, padded) <= 4


def test_small_pictures_are_taken_on_when_there_are_too_many_large_ones():
    with ExitStack() as held:
        fill(held, LARGE)
        with room_for(USUAL):
            pass


def test_results_of_workers_are_taken_on_when_requests_bring_too_many_pictures():
    with ExitStack() as held:
        fill(held, LARGE)
        fill(held, USUAL)
        for data in (picture(size=(600, 600)), picture(size=(3000, 3000))):
            assert media_type(as_webp(data, max_pixels=LIMIT)) == "image/webp"


def test_too_many_results_are_refused_as_well():
    data = picture(size=(600, 600))
    with ExitStack() as held:
        for room in images._results.values():
            held.enter_context(room.hold(10**9))
        for use in (as_webp, check_image):
            with pytest.raises(HordeError, match="too many pictures") as check:
                use(data, max_pixels=LIMIT)
            assert check.value.status == 503
    assert check_image(data, max_pixels=LIMIT) == (600, 600)


def test_small_pictures_do_not_wait_for_large_ones():
    run_with_gevent(
        """
        from horde.platform.images import as_webp, room_for
        from tests.platform.test_images import LARGE, LIMIT, picture

        begun, over = (monkey.get_original("threading", "Event")() for _ in range(2))

        def decode_a_large_one():
            with room_for(LARGE) as threads:
                threads.run(lambda: begun.set() or over.wait(10))

        large = [gevent.spawn(decode_a_large_one) for _ in range(5)]
        while not begun.is_set():
            gevent.sleep(0.001)
        with gevent.Timeout(5):
            as_webp(picture(size=(600, 600)), max_pixels=LIMIT)
        assert not any(call.ready() for call in large)
        over.set()
        gevent.joinall(large, timeout=5, raise_error=True)
        """
    )


def test_base64_with_and_without_data_url():
    data = picture("WEBP")
    text = base64.b64encode(data).decode()
    assert set("+/") & set(text)
    wrapped = base64.encodebytes(data).decode()
    safe = base64.urlsafe_b64encode(data).decode()
    for given_text in (text, wrapped, safe, f"data:image/webp;base64,{text}", f" data:;base64,{text}"):
        assert decode_base64_image(given_text) == data


@pytest.mark.parametrize("text", ["A", "abc", "data:image/png;base64,A", "Grüße", "\ud800AAA"])
def test_text_that_is_no_base64_is_refused(text):
    with pytest.raises(BadRequest, match="Image validation failed") as check:
        decode_base64_image(text)
    assert check.value.rc == "ImageValidationFailed"


def test_too_much_base64_is_refused():
    for length in (images.MAX_IMAGE_BYTES + 3, images.MAX_IMAGE_BYTES * 2):
        with pytest.raises(BadRequest) as check:
            decode_base64_image("AAAA" * (length // 3))
        assert check.value.rc == "SourceImageSizeExceeded"


def test_transparency_and_media_type():
    assert has_alpha(picture("PNG", mode="RGBA"))
    assert not has_alpha(picture("PNG", mode="RGB"))
    assert not has_alpha(picture("JPEG", mode="CMYK"))
    assert media_type(picture("WEBP")) == "image/webp"
    assert media_type(picture("PNG")) == "image/png"
    assert media_type(picture("JPEG")) == "image/jpeg"
    assert media_type(b"<html>") == "application/octet-stream"
