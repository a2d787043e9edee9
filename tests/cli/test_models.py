import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from horde.cli.models import models
from horde.settings import load_settings


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
