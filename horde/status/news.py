"""What the operator has to tell everybody, read from a file."""

import re
import tomllib
from datetime import date
from pathlib import Path

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from horde.platform.http.requests import problems
from horde.platform.runtime import Platform
from horde.status.schemas import Newspiece

NEWS_SECONDS = 60.0

log = structlog.get_logger(__name__)


class NewsError(ValueError):
    """The news cannot be used; the message says which file, where and why."""


class _Piece(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    date_published: date
    title: str
    newspiece: str
    importance: str = "Information"
    tags: list[str] = []
    more_info_urls: list[str] = []


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    news: list[_Piece] = []


def load_news(path: Path) -> list[Newspiece]:
    """Read the news from a TOML file (`config/news.toml` explains it), the newest first.

    Raises `NewsError` when the file is missing or anything in it is wrong.
    """
    try:
        content = path.read_text("utf-8")
        pieces = _File.model_validate(tomllib.loads(content)).news
    except ValidationError as error:
        raise NewsError(f"The news {path} cannot be used: {_told(error, content)}.") from error
    except (OSError, ValueError) as error:
        raise NewsError(f"The news {path} cannot be used: {error}") from error
    pieces.sort(key=lambda piece: piece.date_published, reverse=True)
    return [Newspiece.model_validate(piece.model_dump(mode="json")) for piece in pieces]


def _told(error: ValidationError, content: str) -> str:
    """What is wrong, each with the line where its piece begins."""
    starts = [
        number
        for number, line in enumerate(content.splitlines(), 1)
        if re.match(r"\s*\[\[\s*news\s*\]\]", line)
    ]
    told = []
    for path, problem in problems(error).items():
        parts = path.split(".")
        place = int(parts[1]) if len(parts) > 2 and parts[1].isdigit() else len(starts)
        if place < len(starts):
            told.append(f"in the piece that begins in line {starts[place]}, {'.'.join(parts[2:])} {problem}")
        else:
            told.append(f"{path} {problem}")
    return "; ".join(told)


def news(platform: Platform) -> list[Newspiece]:
    """The news, newest first, as of a minute ago; none when their file is broken, which the log tells."""

    def load() -> list[Newspiece]:
        try:
            return load_news(platform.settings.config_path(platform.settings.news))
        except NewsError as error:
            log.error("there are no news", reason=str(error))
            return []

    return platform.local.get("news", NEWS_SECONDS, load)
