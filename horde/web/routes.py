"""The start page and what the operator has to say."""

from flask import Response

from horde.moderation import modes
from horde.platform.http import limited
from horde.platform.runtime import current_platform
from horde.status import documents
from horde.status.news import news
from horde.web.figures import PLOT_HEIGHT, PLOT_WIDTH, figures
from horde.web.plots import short
from horde.web.site import home, page, site

NEWS_SHOWN = 3
LIMIT = "90/minute"


@site.get("/")
@limited(LIMIT)
def start() -> Response:
    """How the horde is doing."""
    platform = current_platform()
    pieces = [(piece, documents.to_html(piece.newspiece)) for piece in news(platform)[:NEWS_SHOWN]]
    return page(
        "start",
        welcome=documents.document(platform, "welcome", "html", home()).html,
        news=pieces,
        maintenance=modes.modes(platform).maintenance,
        verification=platform.settings.google_site_verification,
        figures=figures(platform),
        width=PLOT_WIDTH,
        height=PLOT_HEIGHT,
        short=short,
    )


@site.get("/terms")
@limited(LIMIT)
def terms() -> Response:
    """The terms of service."""
    return _document("terms", "Terms of service")


@site.get("/privacy")
@limited(LIMIT)
def privacy() -> Response:
    """The privacy policy."""
    return _document("privacy", "Privacy policy")


@site.get("/sponsors")
@limited(LIMIT)
def sponsors() -> Response:
    """Who helps this horde."""
    return _document("sponsors", "Sponsors")


def _document(name: documents.Document, heading: str) -> Response:
    html = documents.document(current_platform(), name, "html", home()).html
    return page("document", heading=heading, html=html)
