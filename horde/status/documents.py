"""The operator's terms, privacy policy and list of sponsors, and what this service is called."""

import re
import traceback
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from string import punctuation
from typing import Any, Literal, get_args
from urllib.parse import quote

import structlog
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, TemplateError
from jinja2.exceptions import TemplateSyntaxError
from markdown_it import MarkdownIt

from horde import __version__
from horde.platform.errors import BadRequest
from horde.platform.http.api import API_VERSION
from horde.platform.runtime import Platform
from horde.settings import ROOT, Settings
from horde.status.schemas import HordeDocument
from horde.users import supporters
from horde.users.supporters import Sponsor

SPONSORS_SECONDS = 300.0
SHIPPED = ROOT / "config" / "documents"

Document = Literal["welcome", "terms", "privacy", "sponsors"]

log = structlog.get_logger(__name__)


class DocumentError(ValueError):
    """A document cannot be shown; the message says which file, where and why."""


def check(settings: Settings) -> None:
    """Raise `DocumentError` unless every document can be shown, with supporters and without."""
    folder = settings.config_path(settings.documents)
    if not folder.is_dir():
        raise DocumentError(f"There is no folder {folder}. DOCUMENTS names the folder of the documents.")
    somebody = [Sponsor("Somebody", "https://example.com/", kudos) for kudos in (1, 10_000_000)]
    for name in get_args(Document):
        for sponsors in ([], somebody):
            _documents(folder).write(name, _values(settings, "https://example.com", sponsors))


def remember(settings: Settings) -> None:
    """Have a version of every document to show when it is broken later. The log tells of those broken now."""
    try:
        check(settings)
    except DocumentError as error:
        log.error("document broken", reason=str(error))


def document(platform: Platform, name: Document, form: str, url: str) -> HordeDocument:
    """A document as `html` or `markdown`, for readers who reach this server at `url`.

    What the operator's folder lacks is the one that ships. A changed file shows at once, unless it is broken:
    then the one before is shown, and the log says why. Raises `BadRequest` (400) for any other `form`.
    """
    if form not in ("html", "markdown"):
        raise BadRequest(f"There is no format '{form}'. It is html or markdown.")
    settings = platform.settings
    values = _values(settings, url, _supporters(platform) if name == "sponsors" else [])
    written = _documents(settings.config_path(settings.documents)).write_or_last(name, values)
    return HordeDocument(markdown=written) if form == "markdown" else HordeDocument(html=to_html(written))


def _supporters(platform: Platform) -> list[Sponsor]:
    """Who gives money, as of some minutes ago, with names and links that are nothing but that in Markdown."""

    def load() -> list[Sponsor]:
        return [
            replace(sponsor, name=plain(sponsor.name), link=_safe_link(sponsor.link))
            for sponsor in supporters.sponsors(platform)
        ]

    return platform.local.get("sponsors", SPONSORS_SECONDS, load)


def plain(words: str) -> str:
    """Markdown that shows `words` as they are, in one line."""
    return re.sub(f"([{re.escape(punctuation)}])", r"\\\1", " ".join(words.split()))


def _safe_link(link: str | None) -> str | None:
    if link is None or not link.startswith(("https://", "http://")):
        return None
    return quote(link, safe="%/:?#@!$&*+,;=~-._")


def _values(settings: Settings, url: str, supporters: list[Sponsor]) -> dict[str, Any]:
    """What documents can tell."""
    return {
        "title": settings.horde_title,
        "url": url,
        "contact": settings.horde_contact_email,
        "anonymous_access": settings.anonymous_access,
        "supporters": supporters,
    }


class _Documents:
    """The documents of a folder, and of each its last version that could be shown.

    They are the operator's own files, so nothing keeps them from anything that Jinja can do.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Markdown, not HTML, comes out of the templates, so there is nothing to escape yet. None are kept:
        # one that ships would hide one of the same name that the operator adds later.
        self._templates = Environment(
            loader=FileSystemLoader([folder, SHIPPED]),
            undefined=StrictUndefined,
            autoescape=False,  # noqa: S701
            cache_size=0,
        )
        self._last: dict[str, Template] = {}

    def write(self, name: Document, values: dict[str, Any]) -> str:
        """A document in Markdown, as its file is now. Raises `DocumentError`."""
        try:
            template = self._templates.get_template(f"{name}.md")
            written = template.render(values)
        except Exception as error:  # a template can fail in any way
            place = _place(error) or self._folder / f"{name}.md"
            reason = (error.message if isinstance(error, TemplateError) else None) or str(error)
            raise DocumentError(f"The document {place} cannot be shown: {reason}") from error
        self._last[name] = template
        return written.strip("\n")

    def write_or_last(self, name: Document, values: dict[str, Any]) -> str:
        """A document in Markdown, as its file was when it could be shown last."""
        try:
            return self.write(name, values)
        except DocumentError as error:
            log.error("document broken", reason=str(error))
            if name not in self._last:
                raise
            return self._last[name].render(values).strip("\n")


def _place(error: Exception) -> str | None:
    """The file and the line of a template that an error comes from."""
    if isinstance(error, TemplateSyntaxError):
        return f"{error.filename}, line {error.lineno},"
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".md")]
    return f"{frames[-1].filename}, line {frames[-1].lineno}," if frames else None


@lru_cache(maxsize=8)
def _documents(folder: Path) -> _Documents:
    return _Documents(folder)


@lru_cache(maxsize=64)
def to_html(markdown: str) -> str:
    """Markdown, which may hold tables and HTML, as HTML."""
    return str(MarkdownIt("commonmark").enable("table").render(markdown)).strip("\n")


def service_info(settings: Settings, url: str) -> dict[str, Any]:
    """What programs find under `/.well-known/serviceinfo`, for those who reach this server at `url`."""
    return {
        "version": "0.2",
        "software": {
            "name": settings.horde_title,
            "version": __version__,
            "repository": settings.horde_repository,
            "homepage": url,
            "logo": settings.horde_logo,
        },
        "api": {
            "aihorde": {
                "name": "AI Horde API",
                "version": API_VERSION,
                "base_url": f"{url}/api/v2",
                "rel_url": "/api/v2",
                "documentation": f"{url}/api",
            }
        },
    }
