"""Objects in a folder, reached by signed URLs of the shape that S3 stores use."""

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex

import structlog
from flask import has_request_context, request

from horde.platform.errors import Forbidden
from horde.platform.images import MAX_IMAGE_BYTES
from horde.platform.objectstore.store import check_key, unavailable
from horde.settings import Settings

log = structlog.get_logger(__name__)


class LocalStore:
    """An ObjectStore in `<var_dir>/objects`, in one folder for each first two characters of the keys.

    Every web process may use the same folder at once. Objects live for hours, so nothing is flushed to disk
    before a call returns.
    """

    def __init__(self, settings: Settings, secret: bytes) -> None:
        self._root = settings.var_dir.resolve() / "objects"
        self._public_url = settings.public_url
        self._own_address = f"http://{settings.host}:{settings.port}"
        self._url_seconds = settings.signed_url_seconds
        # A key of its own, so that no other use of the secret can be made to sign a URL.
        self._signing_key = hmac.digest(secret, b"object urls", hashlib.sha256)

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        # No key starts with a dot, so nobody can ask for the file before it is whole.
        temporary = path.with_name(f".{token_hex(8)}")
        with _unavailable():
            try:
                file = open(temporary, "xb")  # noqa: SIM115 - closed just below
            except FileNotFoundError:
                path.parent.mkdir(parents=True, exist_ok=True)
                file = open(temporary, "xb")  # noqa: SIM115
            try:
                with file:
                    file.write(data)
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise

    def get(self, key: str) -> bytes | None:
        with _unavailable():
            try:
                with self._path(key).open("rb") as file:
                    data = file.read(MAX_IMAGE_BYTES + 1)
            except FileNotFoundError:
                return None
        return data if len(data) <= MAX_IMAGE_BYTES else None

    def delete(self, key: str) -> None:
        with _unavailable():
            self._path(key).unlink(missing_ok=True)

    def upload_url(self, key: str) -> str:
        return self._signed_url("PUT", key)

    def download_url(self, key: str) -> str:
        return self._signed_url("GET", key)

    def sweep(self, older_than_seconds: float, keep: Callable[[str], bool]) -> int:
        oldest = time.time() - older_than_seconds
        deleted = 0
        for file in self._root.glob("*/*"):
            # Another process may sweep or replace the same file meanwhile.
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < oldest and not keep(file.name):
                    file.unlink()
                    deleted += 1
        return deleted

    def verify(self, method: str, key: str, expires: str, signature: str) -> int:
        """How many seconds a URL signed for `method` ("GET" or "PUT") and `key` is still valid.

        Raises Forbidden when it has expired or was not made by this store.
        """
        if not hmac.compare_digest(self._signature(method, key, expires).encode(), signature.encode()):
            raise Forbidden("This address is not valid; use it exactly as you got it.", rc="Forbidden")
        seconds = int(expires) - int(time.time())
        if seconds < 0:
            raise Forbidden("This address has expired; ask the horde for a new one.", rc="Forbidden")
        return seconds

    def _signed_url(self, method: str, key: str) -> str:
        expires = str(int(time.time()) + self._url_seconds)
        signature = self._signature(method, check_key(key), expires)
        return f"{self._base_url()}/objects/{key}?X-Expires={expires}&X-Signature={signature}"

    def _signature(self, method: str, key: str, expires: str) -> str:
        message = f"{method}\n{key}\n{expires}".encode()
        return hmac.new(self._signing_key, message, hashlib.sha256).hexdigest()

    def _base_url(self) -> str:
        if self._public_url is not None:
            return self._public_url.rstrip("/")
        return request.host_url.rstrip("/") if has_request_context() else self._own_address

    def _path(self, key: str) -> Path:
        return self._root / check_key(key)[:2] / key


@contextmanager
def _unavailable() -> Iterator[None]:
    """Turn every failure of the disk into an answer that tells clients to try again."""
    try:
        yield
    except OSError as error:
        log.error("object store failed", error=str(error))
        raise unavailable() from error
