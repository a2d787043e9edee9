import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from horde.app import open_platform
from horde.cli.models import models
from horde.model_reference.service import refresh
from horde.settings import ROOT, Settings, load_settings
from tests.https_server import https_server, reply


@pytest.fixture
def reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "models.json"
    monkeypatch.setenv("MODEL_REFERENCE_IMAGE", str(path))
    load_settings.cache_clear()
    yield path
    load_settings.cache_clear()


def test_show_lists_models_and_what_was_refused(reference: Path) -> None:
    entries = {
        "Fine": {"nsfw": True, "requirements": {"clip_skip": 2, "samplers": ["k_euler", "k_heun"]}},
        "New": {"baseline": "from_tomorrow", "size_on_disk_bytes": 2_000_000_000},
        "Bad": {"nsfw": 3},
    }
    reference.write_text(json.dumps(entries))
    result = CliRunner().invoke(models, ["show"])
    assert result.exit_code == 0
    assert "stable diffusion 1; nsfw; clip_skip 2; samplers k_euler, k_heun" in result.stdout
    assert "from_tomorrow (no rule knows it); 2.0 GB" in result.stdout
    assert f"2 image models in {reference}" in result.stdout
    assert "Refused: Bad: nsfw" in result.stderr


def test_show_says_what_is_wrong_with_the_file(reference: Path) -> None:
    result = CliRunner().invoke(models, ["show"])
    assert result.exit_code == 1
    assert str(reference) in result.stderr
    assert "Traceback" not in result.output


def test_show_says_how_old_a_file_is(reference: Path) -> None:
    reference.write_text('{"Fine": {}}')
    assert "changed 0:00:0" in CliRunner().invoke(models, ["show", "--kind", "image"]).stdout


def test_show_lists_text_models() -> None:
    result = CliRunner().invoke(models, ["show", "--kind", "text"])
    assert result.exit_code == 0
    assert "koboldcpp/Qwen3-8B" in result.stdout
    assert "8 billion parameters" in result.stdout
    assert f"text models in {ROOT / 'config' / 'models' / 'text.json'}" in result.stdout


def test_show_of_a_url_shows_the_copy_in_use(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with https_server(tmp_path) as server:
        url = server.url("/text.json")
        values: dict[str, Any] = {
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
            "VAR_DIR": str(settings.var_dir),
            "OUTBOUND_CA_FILE": str(server.ca_file),
            "MODEL_REFERENCE_TEXT": url,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        load_settings.cache_clear()
        try:
            result = CliRunner().invoke(models, ["show", "--kind", "text"])
            assert f"Nothing came from {url} yet" in result.stderr
            assert "text.json, changed" in result.stdout
            server.answer = reply(body=b'{"Good": {"parameters": 70000000}, "Bad": {}}')
            with open_platform(load_settings()) as platform:
                refresh(platform)
                server.answer = reply(503)
                values_changed = load_settings().model_copy(update={"model_reference_text": url + "?"})
                with open_platform(values_changed) as moved:
                    refresh(moved)
            result = CliRunner().invoke(models, ["show", "--kind", "text"])
        finally:
            load_settings.cache_clear()
    assert result.exit_code == 0
    assert "Good  0.07 billion parameters" in result.stdout
    assert f"1 text models in {url}, fetched 0:00:0" in result.stdout
    assert "Refused: Bad: parameters" in result.stderr
    assert "503" in result.stderr


def check(tmp_path: Path, content: str, *options: str) -> Result:
    path = tmp_path / "candidate.json"
    path.write_text(content)
    return CliRunner().invoke(models, ["check", str(path), *options])


def test_check_accepts_what_can_be_used(tmp_path: Path) -> None:
    for kind in ("image", "text"):
        content = (ROOT / "config" / "models" / f"{kind}.json").read_text()
        result = check(tmp_path, content)
        assert result.exit_code == 0, result.output
        assert f" {kind} models in " in result.stdout
    entry = {"config": {"files": [{"path": "a.safetensors"}, {"path": "b.safetensors"}]}}
    assert check(tmp_path, json.dumps({"Cascade": entry})).exit_code == 0


@pytest.mark.parametrize(
    ("content", "options", "told"),
    [
        ('{"Good": {}, "Bad": {"nsfw": 3}}', [], ["Refused: Bad: nsfw"]),
        ('{"Bad": {"nsfw": 3}}', [], ["Refused: Bad: nsfw", "no entry"]),
        ('{"a": {"parameters": 1}, "b": {"parameters": 0}}', [], ["Refused: b: parameters"]),
        ('{"Image": {}}', ["--kind", "text"], ["Refused: Image: parameters"]),
        ('{"Cascade": {"config": {"files": [{"path": "a"}, {"path": ""}]}}}', [], ["config.files.1.path"]),
        ("{}", [], ["no entry"]),
        ("{", [], ["JSON", "candidate.json"]),
        ("[]", [], ["object", "candidate.json"]),
    ],
)
def test_check_fails_and_says_why(tmp_path: Path, content: str, options: list[str], told: list[str]) -> None:
    result = check(tmp_path, content, *options)
    assert result.exit_code == 1
    assert all(text in result.stderr for text in told), result.output
    assert "Traceback" not in result.output


def test_check_of_a_missing_file(tmp_path: Path) -> None:
    result = CliRunner().invoke(models, ["check", str(tmp_path / "nowhere.json")])
    assert result.exit_code == 1
    assert "nowhere.json" in result.stderr
