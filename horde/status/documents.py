"""The operator's terms, privacy policy and list of sponsors, and what this service is called."""

import re
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from string import punctuation
from typing import Any, Literal
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
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


def document(platform: Platform, name: Document, form: str, url: str) -> HordeDocument:
    """A document as `html` or `markdown`, for readers who reach this server at `url`.

    What the operator's folder lacks is the one that ships. A changed file shows at once. Raises `BadRequest`
    (400) for any other `form`.
    """
    if form not in ("html", "markdown"):
        raise BadRequest(f"There is no format '{form}'. It is html or markdown.")
    settings = platform.settings
    template = _templates(settings.config_path(settings.documents)).get_template(f"{name}.md")
    written = template.render(
        title=settings.horde_title,
        url=url,
        contact=settings.horde_contact_email,
        supporters=_supporters(platform) if name == "sponsors" else [],
    ).strip("\n")
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


@lru_cache(maxsize=8)
def _templates(folder: Path) -> Environment:
    # Markdown, not HTML, comes out of the templates, so there is nothing to escape yet.
    loader = FileSystemLoader([folder, SHIPPED])
    return Environment(loader=loader, undefined=StrictUndefined, autoescape=False)  # noqa: S701


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
