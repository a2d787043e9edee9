"""The start page and documents."""

import re
from pathlib import Path

import pytest

from horde.moderation import modes
from tests.support import Horde, another_process, change, forget
from tests.web.browser import Visitor

PAGES = ["/", "/terms", "/privacy", "/sponsors", "/register", "/login", "/transfer", "/assets/style.css"]
TEXTS = PAGES[:-1]


@pytest.fixture
def visitor(horde: Horde) -> Visitor:
    return Visitor.of(horde)


@pytest.mark.parametrize("path", PAGES)
class TestHeaders:
    def test_nothing_runs_and_nobody_frames(self, visitor: Visitor, path: str) -> None:
        headers = visitor.get(path).headers
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "Access-Control-Allow-Credentials" not in headers

    def test_limited(self, visitor: Visitor, path: str) -> None:
        headers = visitor.get(path).headers
        assert path.startswith("/assets") or "X-RateLimit-Limit" in headers


@pytest.mark.parametrize("path", TEXTS)
class TestMarkup:
    def test_landmarks_and_labels(self, visitor: Visitor, path: str) -> None:
        html = visitor.get(path).text
        assert html.startswith("<!doctype html>")
        assert '<html lang="en">' in html
        assert 'name="viewport" content="width=device-width' in html
        for landmark in ("<header>", "<main ", "<footer>", "<nav aria-label="):
            assert landmark in html
        assert html.count("<h1") == 1
        for field in re.findall(r"<(?:input|textarea)\b[^>]*>", html):
            if not re.search(r'type="hidden"| hidden\b', field):
                name = re.search(r'id="([^"]+)"', field)
                assert name, field
                assert f'<label for="{name[1]}">' in html

    def test_all_from_here(self, visitor: Visitor, path: str) -> None:
        html = visitor.get(path).text
        assert not re.search(r'<(?:script|img|iframe)\b|(?:src|<link[^>]*href)="(?:https?:)?//', html)
        assert " style=" not in html
        assert " on" not in re.sub(r">[^<]*<", "><", html)


def test_no_cookies_where_nobody_needs_them(visitor: Visitor) -> None:
    for path in ("/", "/terms", "/privacy", "/sponsors", "/assets/style.css"):
        assert "Set-Cookie" not in visitor.get(path).headers


def test_pages_with_forms_are_not_kept(visitor: Visitor) -> None:
    for path in ("/register", "/login", "/transfer"):
        assert visitor.get(path).headers["Cache-Control"] == "no-store"


class TestStart:
    def test_an_empty_horde(self, visitor: Visitor) -> None:
        html = visitor.get("/").text
        assert "No image was served yet" in html
        assert "0 images in the last 48 full hours" in html

    def test_live_figures(self, horde: Horde, visitor: Visitor) -> None:
        owner = horde.account()
        horde.asked()
        job = horde.popped(owner)["id"]
        horde.submitted(owner, job)
        for _ in range(2):
            horde.asked()
        change(
            horde.platform,
            "INSERT INTO delivered_totals (hour, kind, model, results, things) "
            "VALUES (date_trunc('hour', now(), 'UTC') - interval '1 hour', 'image', 'm', 1234, 1)",
        )
        horde.platform.cache.flushall()
        forget(horde.platform)
        html = visitor.get("/").text
        assert "1234 images in the last 48 full hours" in html
        cards = dict(re.findall(r'<dt>([^<]+)</dt><dd><span class="number">([^<]+)</span>', html))
        assert cards["Images in the queue"] == "2"
        assert cards["Workers for images"] == "1"
        assert cards["Workers for texts"] == cards["Workers for alchemy"] == "0"
        assert cards["Models"] == "1"
        assert "at most 1.2 K in an hour" in html

    def test_the_operators_words_and_news(self, horde: Horde, tmp_path: Path) -> None:
        (tmp_path / "welcome.md").write_text("Welcome to *{{ title }}*")
        news = "".join(
            f"[[news]]\ndate_published = 2026-01-0{day}\ntitle = 'On {day}'\nnewspiece = '**{day}**'\n"
            f"more_info_urls = ['https://example.com/{day}', 'javascript:alert({day})']\n"
            for day in range(1, 5)
        )
        (tmp_path / "news.toml").write_text(news)
        values = {"horde_title": "Our Horde", "documents": str(tmp_path), "news": str(tmp_path / "news.toml")}
        with another_process(horde, **values) as other:
            html = Visitor.of(other).get("/").text
        assert "Welcome to <em>Our Horde</em>" in html
        assert re.findall(r"<h3>(.*?)</h3>", html) == ["On 4", "On 3", "On 2"]
        assert "<strong>4</strong>" in html
        assert re.findall(r'<a href="([^"]+)" rel', html) == [
            f"https://example.com/{day}" for day in (4, 3, 2)
        ]

    def test_titles_are_nothing_but_text(self, horde: Horde) -> None:
        with another_process(horde, horde_title="Our <Horde>") as other:
            assert "Our <Horde>" not in Visitor.of(other).get("/terms").text.partition("</header>")[0]

    def test_an_operator_without_a_welcome_of_their_own(self, horde: Horde, tmp_path: Path) -> None:
        with another_process(horde, documents=str(tmp_path)) as other:
            assert Visitor.of(other).get("/").status_code == 200


def test_maintenance_is_told(horde: Horde, visitor: Visitor) -> None:
    assert "is in maintenance" not in visitor.get("/").text
    modes.set_modes(horde.platform, maintenance=True)
    assert "is in maintenance" in visitor.get("/").text


def test_google_can_see_whose_site_it_is(horde: Horde) -> None:
    with another_process(horde, google_site_verification='a"b') as other:
        visitor = Visitor.of(other)
        assert '<meta name="google-site-verification" content="a&#34;b">' in visitor.get("/").text
        assert "google" not in visitor.get("/terms").text
    assert "google" not in Visitor.of(horde).get("/").text


def test_where_logins_ended_elsewhere(visitor: Visitor) -> None:
    response = visitor.get("/finish_dance")
    assert (response.status_code, response.location) == (302, "/")


class TestNothingThere:
    BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"

    @pytest.mark.parametrize("path", ["/nothing/here", "/terms/", "/account/key/x", "/assets/none.css"])
    def test_people_get_a_page(self, visitor: Visitor, path: str) -> None:
        response = visitor.get(path, headers={"Accept": self.BROWSER})
        assert (response.status_code, response.mimetype) == (404, "text/html")
        assert "There is nothing at this address" in response.text
        assert "<title>That did not work" in response.text
        assert 'class="brand" href="/">AI Horde<' in response.text
        assert "default-src 'none'" in response.headers["Content-Security-Policy"]

    @pytest.mark.parametrize(
        ("path", "accepted"),
        [("/nothing/here", "*/*"), ("/nothing/here", "application/json"), ("/api/v2/nothing", BROWSER)],
    )
    def test_programs_get_json(self, visitor: Visitor, path: str, accepted: str) -> None:
        response = visitor.get(path, headers={"Accept": accepted})
        assert (response.status_code, response.json["rc"]) == (404, "NotFound")

    def test_without_saying(self, visitor: Visitor) -> None:
        assert visitor.get("/nothing/here").json["rc"] == "NotFound"


@pytest.mark.parametrize("name", ["terms", "privacy", "sponsors"])
def test_documents_are_those_of_the_api(horde: Horde, visitor: Visitor, name: str) -> None:
    assert horde.call("GET", f"/documents/{name}").json["html"] in visitor.get(f"/{name}").text
