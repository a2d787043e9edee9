"""Where a model reference comes from: a file, or an https address that the operator chose."""

from ipaddress import ip_network
from pathlib import Path

from horde.model_reference.documents import ModelReferenceError
from horde.platform import outbound
from horde.settings import Settings

MAX_BYTES = 32 * 1024 * 1024
FETCH_SECONDS = 15.0
# The operator may keep the reference on a network of their own, which users may not make us call.
ANYWHERE = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def is_url(source: str) -> bool:
    """Whether a configured source is fetched rather than read."""
    return source.startswith("https://")


def read_source(settings: Settings, source: str) -> bytes:
    """What is now in the file or behind the URL that a setting names. Raises `ModelReferenceError`."""
    return _fetch(settings, source) if is_url(source) else read_file(settings.config_path(source))


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises `ModelReferenceError` when it cannot be read or is larger than 32 MiB."""
    try:
        with path.open("rb") as file:
            document = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ModelReferenceError(f"The model reference {path} cannot be read: {error.strerror}.") from error
    if len(document) > MAX_BYTES:
        raise ModelReferenceError(f"The model reference {path} is larger than {MAX_BYTES // 2**20} MiB.")
    return document


def _fetch(settings: Settings, url: str) -> bytes:
    unguarded = settings.model_copy(update={"outbound_networks": ANYWHERE})
    try:
        return outbound.fetch(unguarded, url, max_bytes=MAX_BYTES, seconds=FETCH_SECONDS)
    except outbound.OutboundError as error:
        raise ModelReferenceError(f"The model reference {url} cannot be fetched: {error}.") from error
