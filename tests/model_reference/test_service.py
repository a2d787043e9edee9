"""Which reference a process uses, and how it is kept up to date whatever its source does."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from horde.app import open_platform
from horde.model_reference.documents import IMAGE, TEXT, parse
from horde.model_reference.service import image_models, refresh, stored_copy, text_models
from horde.model_reference.sources import MAX_BYTES, read_file
from horde.platform.runtime import Platform
from tests.https_server import Answer, HttpsServer, https_server, reply
from tests.support import change, counted_statements, in_threads, make_settings

STARTER = parse(read_file(TEXT.starter), "", TEXT).models


def document(*names: str, parameters: Any = 10**9) -> bytes:
    return json.dumps({name: {"parameters": parameters} for name in names}).encode()


def send(*names: str) -> Answer:
    return reply(body=document(*names))


def hour_passes(platform: Platform) -> None:
    """The copies are as old as they may become."""
    change(platform, "UPDATE model_references SET fetched = fetched - interval '1 hour'")


@contextmanager
def process(platform: Platform, **values: Any) -> Iterator[Platform]:
    """A process of the same horde, which remembers nothing yet."""
    with open_platform(platform.settings.model_copy(update=values)) as other:
        yield other


def known(platform: Platform, **values: Any) -> set[str]:
    """The text models that a new process knows, with nobody there who refreshes."""
    with process(platform, **values) as other:
        return set(text_models(other).models)


def failure(platform: Platform) -> str | None:
    copy = stored_copy(platform, TEXT)
    assert copy is not None
    return copy.failure


@pytest.fixture
def file(platform: Platform, tmp_path: Path) -> Iterator[tuple[Platform, Path]]:
    """A horde whose text reference is a file."""
    path = tmp_path / "text.json"
    path.write_bytes(document("First"))
    with process(platform, model_reference_text=str(path)) as horde:
        yield horde, path


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer) -> HttpsServer:
    module_server.received.clear()
    module_server.answer = send("First")
    return module_server


@pytest.fixture
def fetching(platform: Platform, server: HttpsServer) -> Iterator[Platform]:
    """A horde whose text reference comes from `server`."""
    values = {"model_reference_text": server.url("/text.json"), "outbound_ca_file": server.ca_file}
    with process(platform, **values) as horde:
        yield horde


def test_the_server_reads_its_reference_once_until_told_otherwise(platform: Platform, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    path.write_text('{"First": {}}')
    settings = platform.settings.model_copy(update={"model_reference_image": str(path)})
    platform = replace(platform, settings=settings)
    platform.local.drop("image_models")
    assert list(image_models(platform).models) == ["First"]
    path.write_text('{"Second": {}}')
    assert list(image_models(platform).models) == ["First"]
    platform.local.drop("image_models")
    assert list(image_models(platform).models) == ["Second"]


def test_a_document_is_parsed_once_and_the_database_asked_seldom(file: tuple[Platform, Path]) -> None:
    platform, path = file
    first = text_models(platform)
    platform.local.drop("text_models")
    assert text_models(platform) is first
    refresh(platform)
    assert text_models(platform) is first
    with counted_statements() as sent:
        assert text_models(platform) is first
    assert sent == []
    platform.local.drop("text_models")
    with counted_statements() as sent:
        assert text_models(platform) is first
    assert len(sent) == 1
    path.write_bytes(document("Second"))
    refresh(platform)
    assert in_threads(8, lambda _: id(text_models(platform))) == [id(text_models(platform))] * 8


def test_an_edited_file_is_used_and_a_broken_one_is_not(file: tuple[Platform, Path]) -> None:
    platform, path = file
    refresh(platform)
    assert set(text_models(platform).models) == {"First"}
    path.write_bytes(document("Second"))
    refresh(platform)
    assert set(text_models(platform).models) == {"Second"}
    path.write_bytes(document("Third")[:-1])
    refresh(platform)
    assert str(path) in (failure(platform) or "")
    path.unlink()
    refresh(platform)
    assert set(text_models(platform).models) == known(platform) == {"Second"}
    path.write_bytes(document("Third"))
    refresh(platform)
    assert set(text_models(platform).models) == known(platform) == {"Third"}
    assert failure(platform) is None


def test_a_file_that_the_setting_newly_names_is_used_at_once(
    file: tuple[Platform, Path], tmp_path: Path
) -> None:
    platform, _ = file
    refresh(platform)
    path = tmp_path / "other.json"
    path.write_bytes(document("Other"))
    assert known(platform, model_reference_text=str(path)) == {"Other"}


def test_without_anything_usable_the_starter_reference_is_used(
    file: tuple[Platform, Path], fetching: Platform, server: HttpsServer
) -> None:
    platform, path = file
    path.write_bytes(b"{")
    refresh(platform)
    assert text_models(platform).models == STARTER
    server.answer = reply(404)
    refresh(fetching)
    assert text_models(fetching).models == STARTER
    assert stored_copy(fetching, TEXT) is None


def test_a_stored_copy_that_this_program_cannot_use_gives_way_to_the_starter(
    file: tuple[Platform, Path],
) -> None:
    platform, _ = file
    refresh(platform)
    change(platform, "UPDATE model_references SET document = '{}', digest = 'other' WHERE kind = 'text'")
    assert known(platform) == set(STARTER)


def test_a_url_is_fetched_when_due_and_every_node_uses_the_same_copy(
    fetching: Platform, server: HttpsServer
) -> None:
    assert known(fetching) == set(STARTER)
    refresh(fetching)
    assert known(fetching) == {"First"}
    server.answer = send("First", "Second")
    refresh(fetching)
    assert known(fetching) == {"First"}
    assert [request.path for request in server.received] == ["/text.json"]
    hour_passes(fetching)
    refresh(fetching)
    assert known(fetching) == set(text_models(fetching).models) == {"First", "Second"}
    hour_passes(fetching)
    refresh(fetching)
    refresh(fetching)
    assert len(server.received) == 3


def broken_off(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(document("Second"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(500), "500"),
        (reply(404, document("Second")), "404"),
        (reply(body=b"<html>"), "JSON"),
        (reply(body=document("Second")[:-3]), "JSON"),
        (reply(body=b""), "JSON"),
        (reply(body=b"[]"), "object"),
        (reply(body=b"{}"), "no entry"),
        (
            reply(body=document("Second", "Third", parameters="many")),
            "no entry that can be used: Second: param",
        ),
        (reply(body=b" " * (MAX_BYTES + 1)), "larger"),
        (reply(302, Location="http://localhost/text.json"), "https"),
        (broken_off, "ended"),
    ],
)
def test_what_fails_leaves_the_last_good_copy(
    fetching: Platform, server: HttpsServer, answer: Answer, reason: str
) -> None:
    refresh(fetching)
    server.answer = answer
    hour_passes(fetching)
    refresh(fetching)
    fetching.local.drop("text_models")
    assert set(text_models(fetching).models) == known(fetching) == {"First"}
    assert reason in (failure(fetching) or "")
    server.answer = send("Second")
    refresh(fetching)
    assert set(text_models(fetching).models) == known(fetching) == {"Second"}
    assert failure(fetching) is None


def test_another_url_that_fails_leaves_the_last_good_copy(fetching: Platform, server: HttpsServer) -> None:
    refresh(fetching)
    server.answer = reply(404)
    elsewhere = {"model_reference_text": server.url("/moved.json")}
    with process(fetching, **elsewhere) as moved:
        refresh(moved)
        assert set(text_models(moved).models) == {"First"}
        server.answer = send("Moved")
        refresh(moved)
        assert set(text_models(moved).models) == {"Moved"}


def test_a_certificate_of_an_unknown_authority_is_refused(fetching: Platform) -> None:
    with process(fetching, outbound_ca_file=None) as strict:
        refresh(strict)
    assert stored_copy(fetching, TEXT) is None


def test_a_redirect_to_https_is_followed(fetching: Platform, server: HttpsServer) -> None:
    def answer(handler: Any) -> None:
        moved = handler.path == "/moved.json"
        (send("Moved") if moved else reply(302, Location="/moved.json"))(handler)

    server.answer = answer
    refresh(fetching)
    assert known(fetching) == {"Moved"}


def test_refused_entries_are_told_and_the_rest_is_used(fetching: Platform, server: HttpsServer) -> None:
    server.answer = reply(body=b'{"Good": {"parameters": 5}, "Bad": {"parameters": 5, "nsfw": "no"}}')
    refresh(fetching)
    copy = stored_copy(fetching, TEXT)
    assert copy is not None
    assert (copy.source, copy.failure) == (server.url("/text.json"), None)
    assert 0 <= copy.age < 60
    assert set(copy.reference.models) == set(text_models(fetching).models) == {"Good"}
    assert "nsfw" in text_models(fetching).refused["Bad"]


def test_one_failing_reference_does_not_hold_up_the_other(fetching: Platform, server: HttpsServer) -> None:
    values = {"model_reference_image": server.url("/image.json")}
    server.answer = lambda handler: (reply(500) if "image" in handler.path else send("First"))(handler)
    with process(fetching, **values) as horde:
        refresh(horde)
        assert stored_copy(horde, IMAGE) is None
        assert set(text_models(horde).models) == {"First"}


@pytest.mark.parametrize("value", ["http://example.org/a.json", "ftp://example.org/a", "file:///etc/passwd"])
def test_only_files_and_https_can_be_configured(tmp_path: Path, value: str) -> None:
    with pytest.raises(ValidationError, match="https"):
        make_settings(tmp_path, model_reference_text=value)
