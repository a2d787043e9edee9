"""Source pictures of image requests: read as requesters send them, stored, handed to workers.

However a picture comes, the same bounds hold, and what is cheap to check of all of them is checked before
anything is fetched or decoded. Only pixels count: photographs are not turned as their EXIF data says.
"""

import base64
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import structlog

from horde.image.schemas import GenerationInputStable
from horde.platform.errors import BadRequest, HordeError
from horde.platform.images import (
    as_webp,
    check_header,
    decode_base64_image,
    has_alpha,
    media_type,
    room_for,
)
from horde.platform.offload import Room
from horde.platform.outbound import OutboundError, OutboundTooLarge, check_url, fetch
from horde.platform.runtime import Platform

MAX_PIXELS = 3072 * 3072
MAX_URL_BYTES = 5000 * 1024
"""The largest picture file that is fetched."""
MAX_URL_LENGTH = 4096
FETCH_SECONDS, ALL_FETCHES_SECONDS = 3.0, 5.0
"""Time for one picture, and for all of a request."""
QUALITY = 95
"""Of the WebP files, as for results. Workers start from these pixels: at low strength or as a control map,
traces of stronger compression would come back in every result. A photograph takes 0.2 bytes a pixel."""

# Fetching may take all of its time, and meanwhile a request with 32 MiB of pictures holds 90.
_fetching = Room(128 * 2**20, "Too many pictures are being fetched at once")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Sources:
    """The source pictures of one request, each a still WebP file."""

    image: bytes | None = None
    mask: bytes | None = None
    extra: tuple[bytes, ...] = ()


def read_sources(platform: Platform, request: GenerationInputStable, address: str | None = None) -> Sources:
    """The pictures in `request`, which it holds in base64 or names by their https addresses.

    `address` is where it comes from: large pictures of one address are read one request's after the other's.

    Raises 400, with the field in the message: `SourceImageUrlInvalid` for an address that may not be called
    or leads to no picture, `SourceImageUnreadable` for a damaged picture there, `SourceImageSizeExceeded` and
    `SourceImageResolutionExceeded` for one that is too large, `InpaintingMissingMask` when neither a mask nor
    transparency tells what to paint, and `ImageValidationFailed` for anything else. Raises 503 with
    `Retry-After` when this process has as many pictures in hand as it takes on.
    """
    given = _given(request)
    if not given:
        return Sources()
    remote = [field for field, text in given.items() if text[:4].lower() == "http"]
    files = {}
    for field, text in given.items():
        with _about(field):
            if field in remote:
                _check_address(platform, text)
            else:
                files[field] = _checked(decode_base64_image(text), field, request)
    if remote:
        # Text comes as body, text and bytes.
        with _fetching.hold(3 * sum(map(len, given.values())) + MAX_URL_BYTES * len(remote)):
            files |= _fetched(platform, request, {field: given[field] for field in remote})
    pictures = {}
    with room_for(*files.values(), who=address) as threads:
        for field in given:
            with _about(field, unreadable="SourceImageUnreadable" if field in remote else None):
                pictures[field] = as_webp(
                    files[field], quality=QUALITY, max_pixels=MAX_PIXELS, threads=threads
                )
    image, mask = pictures.pop("source_image", None), pictures.pop("source_mask", None)
    return Sources(image, mask, tuple(pictures.values()))


def _fetched(
    platform: Platform, request: GenerationInputStable, addresses: Mapping[str, str]
) -> dict[str, bytes]:
    deadline = time.monotonic() + ALL_FETCHES_SECONDS
    files = {}
    for field, url in addresses.items():
        with _about(field):
            data = _fetch(platform, url, deadline)
        with _about(field, unreadable="SourceImageUnreadable"):
            files[field] = _checked(data, field, request)
    return files


def _given(request: GenerationInputStable) -> dict[str, str]:
    """The text of each picture, by its field."""
    extra = {
        f"extra_source_images.{place}": extra.image
        for place, extra in enumerate(request.extra_source_images or ())
    }
    given = {"source_image": request.source_image, "source_mask": request.source_mask, **extra}
    return {field: text.strip() for field, text in given.items() if text}


@contextmanager
def _about(field: str, *, unreadable: str | None = None) -> Iterator[None]:
    """Let refusals name the field; `unreadable` is another code for pictures that cannot be read."""
    try:
        yield
    except BadRequest as error:
        code = unreadable if unreadable and error.rc == "ImageValidationFailed" else error.rc
        raise BadRequest(f"{field}: {error.message}", code) from error


def _check_address(platform: Platform, url: str) -> None:
    try:
        if len(url) > MAX_URL_LENGTH:
            raise OutboundError(f"it is longer than {MAX_URL_LENGTH:,} characters")
        check_url(platform.settings, url)
    except OutboundError as error:
        raise BadRequest(
            f"Image validation failed: this address cannot be used: {error}. Give the https address of a "
            "picture on a public server, or send the picture itself in base64.",
            "SourceImageUrlInvalid",
        ) from error


def _fetch(platform: Platform, url: str, deadline: float) -> bytes:
    seconds = min(FETCH_SECONDS, deadline - time.monotonic())
    try:
        data = fetch(platform.settings, url, max_bytes=MAX_URL_BYTES, seconds=seconds)
    except OutboundTooLarge as error:
        raise BadRequest(
            f"The picture file at this address is larger than {MAX_URL_BYTES // 1024} KiB; "
            "use a smaller one.",
            "SourceImageSizeExceeded",
        ) from error
    except OutboundError as error:
        raise BadRequest(
            f"Image validation failed: the picture could not be fetched: {error}. Make sure that the address "
            "answers everyone at once, or send the picture itself in base64.",
            "ImageValidationFailed",
        ) from error
    if media_type(data) == "application/octet-stream":
        raise BadRequest(
            "Image validation failed: this address does not lead to a WebP, PNG or JPEG file. "
            "Give the address of the picture itself, not of a page that shows it.",
            "SourceImageUrlInvalid",
        )
    return data


def _checked(data: bytes, field: str, request: GenerationInputStable) -> bytes:
    """`data` itself, if its header is that of a picture which will do."""
    check_header(data, max_pixels=MAX_PIXELS)
    needs_alpha = request.source_processing == "inpainting" and not request.source_mask
    if needs_alpha and field == "source_image" and not has_alpha(data):
        raise BadRequest(
            "Inpainting needs to know what to paint: send a source_mask, or a picture that is transparent "
            "there.",
            "InpaintingMissingMask",
        )
    return data


def store_sources(platform: Platform, request_id: UUID, sources: Sources) -> None:
    """Store the pictures for a request that will be queued; all of them or, after a 503, none."""
    stored = []
    try:
        for key, picture in _by_key(request_id, sources).items():
            platform.store.put(key, picture)
            stored.append(key)
    except HordeError:
        _discard(platform, stored)
        raise


def discard_sources(platform: Platform, request_id: UUID, sources: Sources) -> None:
    """Forget the pictures of a request that was not queued after all.

    Never fails: what the store does not delete now is swept when it is old.
    """
    _discard(platform, list(_by_key(request_id, sources)))


def _discard(platform: Platform, keys: list[str]) -> None:
    try:
        for key in keys:
            platform.store.delete(key)
    except HordeError as error:
        log.warning("source images not deleted", keys=keys, error=error.message)


def _by_key(request_id: UUID, sources: Sources) -> dict[str, bytes]:
    extra = {_extra_key(request_id, place): picture for place, picture in enumerate(sources.extra)}
    single = {_image_key(request_id): sources.image, _mask_key(request_id): sources.mask}
    return {key: picture for key, picture in single.items() if picture is not None} | extra


def handed_out(
    platform: Platform, request_id: UUID, options: Mapping[str, Any], *, links: bool
) -> dict[str, Any]:
    """The fields `source_image`, `source_mask` and `extra_source_images` of `GenerationPayloadStable`.

    `options` are those that the request was stored with. Pictures are given as links that hold from now on,
    or without `links` in base64, for worker programs that download nothing; this raises 503 while the store
    cannot be reached. A picture that is gone is given as a link all the same: the worker reports that it
    cannot have it, or fails, instead of making something that nobody asked for.
    """

    def give(key: str) -> str:
        picture = None if links else platform.store.get(key)
        return platform.store.download_url(key) if picture is None else base64.b64encode(picture).decode()

    extra = [
        {"image": give(_extra_key(request_id, place)), "strength": strength}
        for place, strength in enumerate(options["extra_sources"])
    ]
    return {
        "source_image": give(_image_key(request_id)) if options["source_image"] else None,
        "source_mask": give(_mask_key(request_id)) if options["source_mask"] else None,
        "extra_source_images": extra or None,
    }


def _image_key(request_id: UUID) -> str:
    return f"{request_id}_src.webp"


def _mask_key(request_id: UUID) -> str:
    return f"{request_id}_msk.webp"


def _extra_key(request_id: UUID, place: int) -> str:
    # Programs that look into the bucket know it under this spelling.
    return f"{request_id}_exra_src_{place}.webp"
