"""Documents, news and the service's own card, as shipped and as an operator changes them."""

from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Any

import pytest

from horde import __version__
from horde.app import CannotStart, check_files
from horde.settings import ROOT
from horde.status.news import NewsError, load_news
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Horde, another_process, assert_refused, change, forget, make_settings

NAMES = ["terms", "privacy", "sponsors"]
NEWS = "/status/news"
PIECE = """
[[news]]
date_published = {day}
title = "{title}"
newspiece = "Some *text*"
"""


@pytest.mark.parametrize("name", NAMES)
class TestDocuments:
    def test_html_unless_asked_otherwise(self, horde: Horde, name: str) -> None:
        for query in ({}, {"format": "html"}):
            found = horde.call("GET", f"/documents/{name}", query_string=query).json
            assert list(found) == ["html"]
            assert found["html"].startswith("<h1>")

    def test_markdown(self, horde: Horde, name: str) -> None:
        found = horde.call("GET", f"/documents/{name}", query_string={"format": "markdown"}).json
        assert list(found) == ["markdown"]
        assert found["markdown"].startswith("# ")
        assert found["markdown"] == found["markdown"].strip("\n")

    def test_any_other_format(self, horde: Horde, name: str) -> None:
        for form in ("pdf", "", "HTML"):
            response = horde.call("GET", f"/documents/{name}", query_string={"format": form})
            assert_refused(response, 400, "BadRequest", "html", "markdown")

    def test_keys_do_not_matter(self, horde: Horde, name: str) -> None:
        first = horde.call("GET", f"/documents/{name}").json
        for key in (ANONYMOUS_KEY, horde.account(Role.MODERATOR), "no such key"):
            assert horde.call("GET", f"/documents/{name}", key).json == first

    def test_what_the_operator_is_called(self, horde: Horde, name: str) -> None:
        values = {"horde_title": "Our Horde", "horde_contact_email": "people@example.com"}
        with another_process(horde, **values) as other:
            found = other.call("GET", f"/documents/{name}").json["html"]
        assert "Our Horde" in found
        assert 'href="mailto:people@example.com"' in found
        assert "@" not in horde.call("GET", f"/documents/{name}").json["html"]

    def test_one_callers_host_is_not_shown_to_another(self, horde: Horde, name: str) -> None:
        for host in ("one.example", "two.example"):
            response = horde.client.get(f"/api/v2/documents/{name}", headers={"Host": host})
            assert "one.example" not in response.json["html"] or host == "one.example"


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("HORDE_CONTACT_EMAIL", "horde_contact_email"),
        ("HORDE_EMAIL", "horde_contact_email"),
        ("GOOGLE_SITE_VERIFICATION", "google_site_verification"),
        ("GOOGLE_VERIFICATION_STRING", "google_site_verification"),
    ],
)
def test_settings_by_the_names_that_operators_have(
    name: str, field: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(name, "something")
    assert getattr(make_settings(tmp_path), field) == "something"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An operator's documents and news."""
    (tmp_path / "news.toml").touch()
    (tmp_path / "terms.md").write_text(
        "\n# {{ title }}\n\n| a | b |\n| - | - |\n| <b>c</b> | d |\n\n{{ url }}\n\n"
    )
    return tmp_path


@pytest.fixture
def own(horde: Horde, folder: Path) -> Iterator[Horde]:
    """The horde with the operator's own files."""
    values = {
        "documents": str(folder),
        "news": str(folder / "news.toml"),
        "public_url": "https://horde.example/",
    }
    with another_process(horde, **values) as other:
        yield other


def test_documents_of_ones_own(own: Horde, folder: Path) -> None:
    found = own.call("GET", "/documents/terms").json["html"]
    for part in ("<h1>AI Horde</h1>", "<td><b>c</b></td>", "https://horde.example"):
        assert part in found
    (folder / "terms.md").write_text("# Other terms")
    assert own.call("GET", "/documents/terms").json == {"html": "<h1>Other terms</h1>"}


def test_documents_that_come_and_go(own: Horde, folder: Path) -> None:
    shipped = own.call("GET", "/documents/privacy").json
    (folder / "privacy.md").write_text("# Our policy")
    assert own.call("GET", "/documents/privacy").json == {"html": "<h1>Our policy</h1>"}
    (folder / "privacy.md").unlink()
    assert own.call("GET", "/documents/privacy").json == shipped


@pytest.mark.parametrize("content", ["{% if %}", "{{ contakt }}", "{{ 1 / 0 }}", "{% include 'no.md' %}"])
def test_documents_that_break_meanwhile(own: Horde, folder: Path, content: str) -> None:
    """The last that could be shown stays, rather than what ships."""
    before = own.call("GET", "/documents/terms").json
    (folder / "terms.md").write_text(f"# Terms\n\n{content}")
    for _ in range(2):
        assert own.call("GET", "/documents/terms").json == before
    (folder / "terms.md").write_text("# Terms")
    assert own.call("GET", "/documents/terms").json == {"html": "<h1>Terms</h1>"}


class TestStart:
    """A server does not start while a visitor would find something broken."""

    def refused(self, horde: Horde, folder: Path, **values: Any) -> str:
        files = {"documents": str(folder), "news": str(folder / "news.toml")} | values
        with pytest.raises(CannotStart) as refusal:
            check_files(horde.platform.settings.model_copy(update=files))
        return str(refusal.value)

    def test_as_it_ships(self, horde: Horde) -> None:
        check_files(horde.platform.settings)

    @pytest.mark.parametrize("name", ["welcome", *NAMES])
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("{% if contact %}", "endif"),
            ("{{ contakt }}", "contakt"),
            ("{{ title.no.thing }}", "no"),
            ("{{ 1 / 0 }}", "division by zero"),
            ("{% include 'no.md' %}", "no.md"),
        ],
    )
    def test_documents(self, horde: Horde, folder: Path, name: str, content: str, reason: str) -> None:
        path = folder / f"{name}.md"
        path.write_text(f"# Title\n\n{content}\n")
        told = self.refused(horde, folder)
        assert f"{path}, line 3, " in told
        assert reason in told

    @pytest.mark.parametrize(
        "content", ["{% for one in supporters %}{{ one.nam }}{% endfor %}", "{{ supporters[0].name }}"]
    )
    def test_with_supporters_and_without(self, horde: Horde, folder: Path, content: str) -> None:
        (folder / "sponsors.md").write_text(content)
        assert f"{folder / 'sponsors.md'}, line 1, " in self.refused(horde, folder)

    def test_no_text_at_all(self, horde: Horde, folder: Path) -> None:
        (folder / "terms.md").write_bytes(b"\xff\xfe")
        assert f"{folder / 'terms.md'} cannot be shown" in self.refused(horde, folder)

    def test_no_folder(self, horde: Horde, folder: Path) -> None:
        told = self.refused(horde, folder, documents=str(folder / "documnets"))
        assert f"no folder {folder / 'documnets'}" in told
        assert "DOCUMENTS" in told

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("[[news]]\ntitle = \n", "line 2"),
            (
                f"{PIECE.format(day='2026-01-31', title='x')}\n[[news]]\ntitle = 'y'",
                "line 7, date_published is",
            ),
            (f"{PIECE.format(day='2026-01-31', title='x')}colour = 1", "line 2, colour"),
            ("piece = 1", "piece"),
            ("news = 1", "news must be a list"),
        ],
    )
    def test_news(self, horde: Horde, folder: Path, content: str, reason: str) -> None:
        (folder / "news.toml").write_text(content)
        told = self.refused(horde, folder)
        assert str(folder / "news.toml") in told
        assert reason in told

    def test_no_news_at_all(self, horde: Horde, folder: Path) -> None:
        (folder / "news.toml").unlink()
        assert str(folder / "news.toml") in self.refused(horde, folder)


class TestNews:
    def test_none_are_shipped(self, horde: Horde) -> None:
        assert horde.call("GET", NEWS).json == []

    def test_newest_first(self, own: Horde, folder: Path) -> None:
        more = 'importance = "Crisis"\ntags = ["a"]\nmore_info_urls = ["https://example.com"]\n'
        days = ["2025-12-31", "2026-02-01", "2026-01-31"]
        pieces = [PIECE.format(day=day, title=f"On {day}") for day in days]
        (folder / "news.toml").write_text(pieces[0] + more + pieces[1] + pieces[2])
        found = own.call("GET", NEWS).json
        assert [piece["date_published"] for piece in found] == sorted(days, reverse=True)
        assert found[0] == {
            "date_published": "2026-02-01",
            "newspiece": "Some *text*",
            "importance": "Information",
            "tags": [],
            "title": "On 2026-02-01",
            "more_info_urls": [],
        }
        assert found[2] | {"importance": "Crisis", "tags": ["a"]} == found[2]
        assert found[2]["more_info_urls"] == ["https://example.com"]

    @pytest.mark.parametrize(
        "content",
        [
            None,
            "no TOML",
            "[[news]]\ntitle = 'only this'",
            PIECE.format(day="'2026-01-31'", title="x"),
            PIECE.format(day="2026-01-31", title="x") + "colour = 'red'",
        ],
    )
    def test_a_broken_file(self, own: Horde, folder: Path, content: str | None) -> None:
        path = folder / "news.toml"
        path.unlink()
        if content is not None:
            path.write_text(content)
        assert own.call("GET", NEWS).json == []
        with pytest.raises(NewsError, match=r"news\.toml"):
            load_news(path)

    def test_masks_are_not_kept(self, own: Horde, folder: Path) -> None:
        (folder / "news.toml").write_text(PIECE.format(day="2026-01-31", title="x"))
        for _ in range(2):
            assert own.call("GET", NEWS, headers={"X-Fields": "title"}).json == [{"title": "x"}]
            assert len(own.call("GET", NEWS).json[0]) == 6

    def test_a_changed_file(self, own: Horde, folder: Path) -> None:
        (folder / "news.toml").write_text("")
        assert own.call("GET", NEWS).json == []
        (folder / "news.toml").write_text(PIECE.format(day="2026-01-31", title="x"))
        forget(own.platform)  # a minute passes
        assert len(own.call("GET", NEWS).json) == 1

    def test_the_example_in_the_file(self, tmp_path: Path) -> None:
        lines = (ROOT / "config" / "news.toml").read_text().splitlines()
        start = lines.index("# [[news]]")
        example = tmp_path / "news.toml"
        example.write_text("\n".join(line.removeprefix("# ") for line in lines[start:]))
        (piece,) = load_news(example)
        assert piece.tags == ["maintenance"]


class TestServiceInfo:
    PATH = "/.well-known/serviceinfo"

    def test_as_it_ships(self, horde: Horde) -> None:
        response = horde.client.get(self.PATH, headers={"Host": "horde.example:7001"})
        assert response.content_type == "application/json; charset=utf-8"
        assert response.headers["Access-Control-Allow-Origin"] == "*"
        info: dict[str, Any] = response.json
        assert info["version"] == "0.2"
        assert (info["software"]["name"], info["software"]["version"]) == ("AI Horde", __version__)
        assert info["software"]["homepage"] == "http://horde.example:7001"
        assert info["api"] == {
            "aihorde": {
                "name": "AI Horde API",
                "version": "2.5",
                "base_url": "http://horde.example:7001/api/v2",
                "rel_url": "/api/v2",
                "documentation": "http://horde.example:7001/api",
            }
        }

    def test_as_configured(self, horde: Horde) -> None:
        values = {
            "public_url": "https://horde.example/",
            "horde_title": "Our Horde",
            "horde_repository": "https://example.com/code",
            "horde_logo": "https://example.com/logo.svg",
        }
        with another_process(horde, **values) as other:
            info = other.client.get(self.PATH, headers={"Host": "elsewhere"}).json
        assert info["software"] == {
            "name": "Our Horde",
            "version": __version__,
            "repository": "https://example.com/code",
            "homepage": "https://horde.example",
            "logo": "https://example.com/logo.svg",
        }
        assert info["api"]["aihorde"]["base_url"] == "https://horde.example/api/v2"


class TestSupporters:
    def give(self, horde: Horde, kudos: int, name: str | None, link: str | None = None) -> None:
        change(
            horde.platform,
            """
            INSERT INTO supporters (source, user_id, kudos, name, link)
            VALUES ('x', :id, :kudos, :name, :link)
            """,
            id=horde.account().id,
            kudos=kudos,
            name=name,
            link=link,
        )

    def shown(self, horde: Horde, form: str = "html") -> str:
        return str(horde.call("GET", "/documents/sponsors", query_string={"format": form}).json[form])

    def test_nobody_yet(self, horde: Horde) -> None:
        assert "Supporters" not in self.shown(horde)
        assert "Sponsors</h2>" not in self.shown(horde)

    def test_who_gives_most_comes_first(self, horde: Horde) -> None:
        self.give(horde, 30_000, "Ada")
        self.give(horde, 60_000, "Ben", "https://ben.example")
        self.give(horde, 90_000, None)
        self.give(horde, 1_500_000, "Cleo Inc.", "https://cleo.example/a?b=c")
        self.give(horde, 2_000_000, "Dora")
        self.give(horde, 20_000, "Eli")
        found = self.shown(horde)
        assert "<p>Ben, Ada</p>" in found
        assert "Eli" not in found
        listed = '<li>Dora</li>\n<li><a href="https://cleo.example/a?b=c">Cleo Inc.</a></li>'
        assert listed in found
        assert "ben.example" not in found
        assert self.shown(horde, "markdown").endswith("Ben, Ada")

    @pytest.mark.parametrize("kudos", [30_000, 1_500_000])
    @pytest.mark.parametrize(
        "name",
        [
            "<script>alert(1)</script>",
            "[x](https://evil.example)",
            "a\n\n# b",
            "*a* _b_ `c`",
            "&lt;",
            "a_b",
            "Zoë · 日本",
            "1. x",
        ],
    )
    def test_names_are_nothing_but_names(self, horde: Horde, name: str, kudos: int) -> None:
        self.give(horde, kudos, name)
        found = self.shown(horde)
        assert escape(" ".join(name.split()), quote=False) in found
        assert "<script" not in found
        assert "<a" not in found

    @pytest.mark.parametrize(
        "link",
        [
            "javascript:alert(1)",
            "https://x.example/>) <script>alert(1)</script>",
            'https://x"y',
            "//x.example",
        ],
    )
    def test_links_are_nothing_but_links(self, horde: Horde, link: str) -> None:
        self.give(horde, 1_500_000, "Eve", link)
        found = self.shown(horde)
        assert "Eve" in found
        assert "<script" not in found
        assert ("<a href=" in found) == link.startswith("https://")
