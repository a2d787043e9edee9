"""What every object store promises."""

import re
from typing import Protocol

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}")


class ObjectStore(Protocol):
    """Pictures by key, kept for hours. Every method may be called from any thread.

    Keys have 1 to 200 letters, digits, `_`, `-` and `.`, no leading dot and no two dots in a row;
    any other key is a ValueError. When the store cannot be reached, methods raise HordeError with
    status 503.
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

    def sweep(self, older_than_seconds: float) -> int:
        """Delete everything written longer ago than that; returns how many objects and left-over files."""


def check_key(key: str) -> str:
    """`key` itself; ValueError if it is none (the rule stands at `ObjectStore`)."""
    if not _KEY.fullmatch(key) or ".." in key:
        raise ValueError(f"not an object key: {key!r}")
    return key
