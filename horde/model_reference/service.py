"""The model references that the horde uses, and keeping them up to date.

The leader reads or fetches them and keeps the last good copy of each in the database, from where all
nodes take it: they agree, and a node needs no network to start.
"""

import math
import threading
import time
from dataclasses import dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Generic

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from horde.model_reference.documents import IMAGE, KINDS, TEXT, Kind, ModelReferenceError, parse
from horde.model_reference.schemas import ImageModel, M, ModelReference, TextModel
from horde.model_reference.sources import is_url, read_file, read_source
from horde.model_reference.tables import StoredReference
from horde.platform.runtime import Platform

KEPT_SECONDS = 300
"""A process looks this often for a copy newer than its own; the leader also tells it."""
LOGGED_ENTRIES = 5

log = structlog.get_logger(__name__)


def image_models(platform: Platform) -> ModelReference[ImageModel]:
    """The image models that this horde knows: those of the last good copy, else of the configured file,
    else of the starter reference. Raises `ModelReferenceError` when even that one is broken."""
    return platform.local.get(_key(IMAGE), KEPT_SECONDS, lambda: _in_use(platform, IMAGE))


def text_models(platform: Platform) -> ModelReference[TextModel]:
    """The text models that this horde knows; see `image_models`."""
    return platform.local.get(_key(TEXT), KEPT_SECONDS, lambda: _in_use(platform, TEXT))


def refresh(platform: Platform) -> None:
    """Bring the stored copies up to date; the leader does this every minute.

    Files are read every time, URLs when their copy is `model_reference_seconds` old or from elsewhere.
    What fails or has no usable entry leaves the last good copy in use; the reason is logged and kept
    beside it.
    """
    for kind in KINDS.values():
        if _due(platform, kind):
            _refresh(platform, kind)


@dataclass(frozen=True, slots=True)
class Copy(Generic[M]):
    """A reference and where it comes from."""

    source: str
    age: float
    """Seconds since a URL was fetched or a file changed."""
    failure: str | None
    """Why the newest refresh failed, if it did."""
    reference: ModelReference[M]


def file_copy(path: Path, kind: Kind[M]) -> Copy[M]:
    """The reference in a file. Raises `ModelReferenceError`."""
    reference = parse(read_file(path), str(path), kind)
    return Copy(str(path), time.time() - path.stat().st_mtime, None, reference)


def stored_copy(platform: Platform, kind: Kind[M]) -> Copy[M] | None:
    """The last good copy that the database holds, or None. Raises `ModelReferenceError`."""
    query = select(
        StoredReference.source,
        StoredReference.failure,
        StoredReference.document,
        func.extract("epoch", func.now() - StoredReference.fetched).label("age"),
    ).where(StoredReference.kind == kind.name)
    with platform.read() as db:
        row = db.execute(query).one_or_none()
    if row is None:
        return None
    return Copy(row.source, float(row.age), row.failure, parse(row.document, row.source, kind))


def _key(kind: Kind[Any]) -> str:
    return f"{kind.name}_models"


@dataclass(frozen=True, slots=True)
class _Parsed(Generic[M]):
    digest: str
    reference: ModelReference[M]


class _Held(Generic[M]):
    """What this process parsed last. It is parsed again only when the document changes, and by one thread."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.parsed: _Parsed[M] | None = None


def _in_use(platform: Platform, kind: Kind[M]) -> ModelReference[M]:
    held: _Held[M] = platform.local.get(f"{_key(kind)}:parsed", math.inf, _Held)
    with held.lock:
        held.parsed = _newest(platform, kind, held.parsed)
        return held.parsed.reference


# A node takes a file of its own over a copy of another file: the setting has just changed.
_NEWER_COPY = text("""
    SELECT source, digest, CASE WHEN digest = :known THEN NULL ELSE document END AS document
    FROM model_references WHERE kind = :kind AND (source = :source OR :any_source)
""")


def _newest(platform: Platform, kind: Kind[M], known: _Parsed[M] | None) -> _Parsed[M]:
    source = kind.source(platform.settings)
    values = {"kind": kind.name, "source": source, "any_source": is_url(source)}
    with platform.read() as db:
        copy = db.execute(_NEWER_COPY, {**values, "known": known and known.digest}).one_or_none()
    if copy is not None and known is not None and copy.digest == known.digest:
        return known
    try:
        if copy is not None:
            return _parsed(copy.document, copy.source, kind, known)
        path = kind.starter if is_url(source) else platform.settings.config_path(source)
        return _parsed(read_file(path), str(path), kind, known)
    except ModelReferenceError as error:
        log.error("the starter model reference is used", kind=kind.name, reason=str(error))
        return _parsed(read_file(kind.starter), str(kind.starter), kind, known)


def _parsed(document: bytes, source: str, kind: Kind[M], known: _Parsed[M] | None) -> _Parsed[M]:
    digest = _digest(document)
    if known is not None and known.digest == digest:
        return known
    return _Parsed(digest, parse(document, source, kind))


def _digest(document: bytes) -> str:
    return sha256(document).hexdigest()


def _due(platform: Platform, kind: Kind[Any]) -> bool:
    source = kind.source(platform.settings)
    if not is_url(source):
        return True
    age = func.extract("epoch", func.now() - StoredReference.fetched)
    query = select(age).where(StoredReference.kind == kind.name, StoredReference.source == source)
    with platform.read() as db:
        seconds = db.scalar(query)
    return seconds is None or seconds >= platform.settings.model_reference_seconds


def _refresh(platform: Platform, kind: Kind[Any]) -> None:
    source = kind.source(platform.settings)
    try:
        document = read_source(platform.settings, source)
        reference = parse(document, source, kind)
    except ModelReferenceError as error:
        log.warning("model reference not refreshed", kind=kind.name, source=source, reason=str(error))
        _note_failure(platform, kind, str(error))
        return
    if not _store(platform, kind, source, document):
        return
    platform.local.drop(_key(kind))
    log.info("model reference changed", kind=kind.name, source=source, models=len(reference.models))
    if reference.refused:
        log.warning(
            "entries of the model reference refused; `horde models show` lists all",
            kind=kind.name,
            source=source,
            count=len(reference.refused),
            first=dict(islice(reference.refused.items(), LOGGED_ENTRIES)),
        )


def _note_failure(platform: Platform, kind: Kind[Any], reason: str) -> None:
    row = update(StoredReference).where(StoredReference.kind == kind.name)
    with platform.engine.begin() as db:
        db.execute(row.values(failure=reason))


def _store(platform: Platform, kind: Kind[Any], source: str, document: bytes) -> bool:
    """Keep `document` as the last good copy; tells whether it differs from the one before."""
    digest = _digest(document)
    current = {"source": source, "fetched": func.now(), "failure": None}
    with platform.engine.begin() as db:
        same = db.execute(
            update(StoredReference)
            .where(StoredReference.kind == kind.name, StoredReference.digest == digest)
            .values(current)
        )
        if same.rowcount:
            return False
        changed = current | {"digest": digest, "document": document}
        db.execute(
            insert(StoredReference)
            .values(kind=kind.name, **changed)
            .on_conflict_do_update(index_elements=[StoredReference.kind], set_=changed)
        )
    return True
