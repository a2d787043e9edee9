"""Pictures that strangers send: bounded by bytes and pixels, proven to decode, kept as WebP.

Nothing in a file is believed but its pixels: colour profiles, EXIF and comments are never interpreted.
"""

import base64
import binascii
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from PIL import Image

from horde.platform.errors import BadRequest
from horde.platform.offload import NativeThreads, Room

T = TypeVar("T")

MAX_IMAGE_BYTES = 20 * 2**20
"""No picture file is larger, wherever it comes from."""
MAX_SIDE = 16383
"""The longest side that a WebP file can have."""

# Formats with simple decoders that browsers and workers actually send. Each further one would be
# another parser open to hostile bytes.
FORMATS = ("WEBP", "PNG", "JPEG")

METADATA = frozenset({"exif", "xmp", "icc_profile"})
"""What may come with a WebP file besides pixels, by Pillow's names."""

ENCODER_EFFORT = 0
"""Of the WebP encoder, 0 to 6. At quality 95 its default of 4 takes twice the time (3072 x 3072: 1.2 and 1.4
seconds instead of 0.6 and 0.8, a photograph and noise) and 180 MB more for files that are 3 % and 0 % smaller
and no better."""

MAX_JPEG_SEGMENTS = 1000
MAX_JPEG_SCANS = 64
# Second bytes of the JPEG markers that begin a segment with a length.
_JPEG_SEGMENTS = frozenset((*range(0xC0, 0xC8), *range(0xC9, 0xD0), *range(0xDB, 0xF0), 0xFE))

TINY_PIXELS = 256 * 256
"""Pictures that are decoded sooner than another thread would have begun."""

LARGE_WEIGHT = 8 * 2**20
"""Pictures that together weigh more are large: 2048 x 2048 as JPEG is not, 3072 x 3072 always is.

A weight is pixels plus bytes: pixels take time (0.09 seconds a million to encode), bytes take memory (four
times over, as body, text, file and result)."""
# Large and small pictures have threads of their own. Decoding and encoding the largest picture that can be
# asked for takes a second and 150 MB, a result of the largest size ten times that, so there is one of them
# at a time.
_small, _large = NativeThreads(2), NativeThreads(1)
# What is taken on is done within about 5 seconds then, which is what who is refused is told to wait. It is
# 6 large pictures, or 2 pairs of a picture and a mask that are all noise.
LARGE_ROOM = 48 * 2**20
SMALL_ROOM = 64 * 2**20


def _rooms() -> dict[NativeThreads, Room]:
    return {
        _small: Room(SMALL_ROOM, "There are too many pictures at once"),
        _large: Room(LARGE_ROOM, "There are too many large pictures at once"),
    }


# Workers are not refused because requests bring many pictures.
_requests, _results = _rooms(), _rooms()

_DATA_URL = re.compile(r"\s*data:[^,]{0,200},", re.IGNORECASE)


def decode_base64_image(text: str) -> bytes:
    """The bytes behind base64 `text`, with or without a leading `data:...,`.

    The URL-safe alphabet will do too, and white space does not count. The bytes are not looked at yet.
    Raises BadRequest: `ImageValidationFailed` if the text is no base64, `SourceImageSizeExceeded` if there
    are more than `MAX_IMAGE_BYTES`.
    """
    prefix = _DATA_URL.match(text)
    encoded = text[prefix.end() :] if prefix else text
    if len(encoded) > MAX_IMAGE_BYTES * 3 // 2:
        raise _too_many_bytes()
    try:
        # It leaves the usual alphabet as it is.
        data = base64.urlsafe_b64decode(encoded)
    except (binascii.Error, ValueError) as error:
        raise _invalid("the text is not base64; send the bytes of a picture file in base64") from error
    _check_bytes(data)
    return data


def check_header(data: bytes, *, max_pixels: int) -> None:
    """Refuse what `as_webp` would refuse, as far as bytes and header tell; nothing is decoded."""
    _open_bounded(data, max_pixels).close()


@contextmanager
def room_for(*files: bytes, who: str | None = None) -> Iterator[NativeThreads]:
    """The right to decode the pictures of one request, which passed `check_header`, and the threads for it.

    It is one right for all of them, held until the end of the block, so that no request is refused after
    half of the work. Of large pictures `who` gets one request's at a time. Raises HordeError with status 503
    and `Retry-After` when too many others hold it.
    """
    weight = 0
    for data in files:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            weight += _weight(picture, data)
    with _hold(_requests, weight, who) as threads:
        yield threads


def check_image(data: bytes, *, max_pixels: int) -> tuple[int, int]:
    """Width and height of the still WebP, PNG or JPEG picture in `data`, which is decoded once to prove it.

    Raises BadRequest: `SourceImageSizeExceeded` over `MAX_IMAGE_BYTES`, `SourceImageResolutionExceeded`
    over `max_pixels` or `MAX_SIDE`, `ImageValidationFailed` for animations and anything else; and
    HordeError with status 503 and `Retry-After` when too many workers send pictures at once.
    """

    def size(picture: Image.Image) -> tuple[int, int]:
        if _animated(picture):
            raise _invalid("the picture is animated; send a still one")
        return picture.size

    return _decode(data, max_pixels, size)


def as_webp(
    data: bytes, *, quality: int = 95, max_pixels: int, threads: NativeThreads | None = None
) -> bytes:
    """The picture in `data` as a still WebP file, checked as `check_image` does.

    `threads` are those that `room_for` gave; without them it is a worker's result, for which room is sought
    here. A 503 loses nothing then: worker programs send a result again.

    A still WebP file without metadata comes back as it is, which costs no quality. Anything else is encoded
    with `quality` (0-100): of an animation the first frame; transparency exactly as it was, and colours under
    it kept; metadata left out, so that a photograph is turned as its pixels are and tells no place.
    """

    def encode(picture: Image.Image) -> bytes:
        if picture.format == "WEBP" and not _animated(picture) and METADATA.isdisjoint(picture.info):
            return data
        target = io.BytesIO()
        _plain(picture).save(target, "WEBP", quality=quality, exact=True, method=ENCODER_EFFORT)
        _check_bytes(target.getvalue())
        return target.getvalue()

    return _decode(data, max_pixels, encode, threads)


def has_alpha(data: bytes) -> bool:
    """Whether a picture that passed `check_image` or `as_webp` has transparency, by its header alone."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
        return picture.has_transparency_data


def media_type(data: bytes) -> str:
    """The media type that the first bytes tell; `application/octet-stream` unless WebP, PNG or JPEG."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "application/octet-stream"


def _decode(
    data: bytes,
    max_pixels: int,
    use: Callable[[Image.Image], T],
    threads: NativeThreads | None = None,
) -> T:
    """Open `data` within all bounds, decode its (first) frame, and return what `use` makes of it."""
    with _open_bounded(data, max_pixels) as picture:

        def load_and_use() -> T:
            try:
                picture.load()
                return use(picture)
            except BadRequest:
                raise
            except Exception as error:  # hostile bytes make decoders raise nearly anything
                raise _invalid("the file is damaged or cut short") from error

        if picture.width * picture.height <= TINY_PIXELS:
            return load_and_use()
        if threads is not None:
            return threads.run(load_and_use)
        with _hold(_results, _weight(picture, data)) as threads:
            return threads.run(load_and_use)


@contextmanager
def _hold(rooms: dict[NativeThreads, Room], weight: int, who: str | None = None) -> Iterator[NativeThreads]:
    threads = _large if weight > LARGE_WEIGHT else _small
    with rooms[threads].hold(weight, who if threads is _large else None):
        yield threads


def _weight(picture: Image.Image, data: bytes) -> int:
    return picture.width * picture.height + len(data)


def _open_bounded(data: bytes, max_pixels: int) -> Image.Image:
    """The picture in `data`, its header read and within all bounds."""
    _check_bytes(data)
    if media_type(data) == "image/jpeg":
        _check_jpeg(data)
    picture = _open(data)
    width, height = picture.size
    if width * height > max_pixels or max(width, height) > MAX_SIDE:
        raise _too_many_pixels(f"{width} x {height} pixels", max_pixels)
    return picture


def _open(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_many_pixels("far too many pixels") from error
    except Exception as error:  # hostile bytes make parsers raise nearly anything
        raise _invalid("this is no readable WebP, PNG or JPEG file") from error


def _animated(picture: Image.Image) -> bool:
    # Cameras add previews to a JPEG as further "frames" (MPO); it is still one picture.
    return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))


def _plain(picture: Image.Image) -> Image.Image:
    """The picture as RGB or RGBA, with all that counts as transparent.

    Greys of 16 bits (depth maps) are scaled down; the encoder would clip nearly all of them to white. It
    would also overlook a colour that a PNG declares to be transparent.
    """
    if picture.mode.startswith("I;16"):
        picture = picture.point(lambda value: value * (1 / 256)).convert("L")
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def _check_jpeg(data: bytes) -> None:
    """Refuse a JPEG that is all headers or repeats scans without end: few bytes, much memory or time.

    Junk between headers is refused too: a parser that skips it would count other headers than these.
    """
    if data.count(b"\xff\xda") > MAX_JPEG_SCANS:
        raise _invalid("the JPEG file has too many scans; save it anew")
    position = 2
    for _ in range(MAX_JPEG_SEGMENTS):
        marker = data[position : position + 2]
        if marker == b"\xff\xda":
            return
        if marker == b"\xff\xff":
            position += 1
        elif len(marker) == 2 and marker[0] == 0xFF and marker[1] in _JPEG_SEGMENTS:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        else:
            raise _invalid("the headers of the JPEG file are damaged")
    raise _invalid("the JPEG file has too many headers; save it anew without metadata")


def _check_bytes(data: bytes) -> None:
    if len(data) > MAX_IMAGE_BYTES:
        raise _too_many_bytes()


def _invalid(reason: str) -> BadRequest:
    return BadRequest(f"Image validation failed: {reason}.", rc="ImageValidationFailed")


def _too_many_bytes() -> BadRequest:
    return BadRequest(
        f"The picture file is larger than {MAX_IMAGE_BYTES // 2**20} MiB; send a smaller one.",
        rc="SourceImageSizeExceeded",
    )


def _too_many_pixels(found: str, max_pixels: int | None = None) -> BadRequest:
    allowed = f"at most {max_pixels:,} in all, " if max_pixels else ""
    return BadRequest(
        f"The picture has {found}; send one with {allowed}no side longer than {MAX_SIDE:,}.",
        rc="SourceImageResolutionExceeded",
    )
