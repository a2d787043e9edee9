"""What every object store promises."""

import re
from collections.abc import Callable
from typing import Protocol

from horde.platform.errors import HordeError

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


class ObjectStore(Protocol):
    """Pictures by key, kept for hours. Every method may be called from any thread.

    Keys have 1 to 200 letters, digits, `_`, `-` and `.`, no leading dot and no two dots in a row;
    any other key is a ValueError. When the store cannot be reached or is full, methods raise HordeError
    with status 503.
    """

    def put(self, key: str, data: bytes) -> None:
        """Keep `data` under `key`, in place of what was there; readers see one or the other whole."""

    def get(self, key: str) -> bytes | None:
        """What is kept under `key`; None when there is nothing, or more than `images.MAX_IMAGE_BYTES`."""

    def delete(self, key: str) -> None:
        """Forget `key`; no error when there is nothing."""

    def upload_url(self, key: str) -> str:
        """A URL that takes one picture by PUT, with any Content-Type or none, for `signed_url_seconds`."""

    def download_url(self, key: str) -> str:
        """A URL that answers GET with what is kept under `key`, for `signed_url_seconds`."""

    def sweep(self, older_than_seconds: float, keep: Callable[[str], bool]) -> int:
        """Delete everything written longer ago than that, unless `keep` says yes to its key.

        Returns how many objects and left-over files there were.
        """


def check_key(key: str) -> str:
    """`key` itself; ValueError if it is none (the rule stands at `ObjectStore`)."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError(f"not an object key: {key!r}")
    return key


def unavailable() -> HordeError:
    """What callers are told when the store fails."""
    return HordeError(
        "The horde cannot reach its picture store; try again in a minute.",
        rc="ServiceUnavailable",
        status=503,
    )
