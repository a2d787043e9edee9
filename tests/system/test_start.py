"""A server that cannot serve says why in plain words, and does not start."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from horde.cli.serve import claim_port
from horde.settings import ROOT, Settings

pytestmark = pytest.mark.system

GUNICORN = ["gunicorn", "--config", "config/gunicorn.conf.py", "wsgi:app"]
SERVE = ["horde.cli", "serve"]


@pytest.mark.parametrize("command", [GUNICORN, SERVE], ids=["gunicorn", "serve"])
@pytest.mark.parametrize("broken", ["document", "news"])
def test_files_of_the_operator(
    settings: Settings, tmp_path: Path, command: Sequence[str], broken: str
) -> None:
    terms, news = tmp_path / "terms.md", tmp_path / "news.toml"
    terms.write_text("# Terms\n\n{{ contakt }}" if broken == "document" else "# Terms")
    news.write_text("[[news]]\ntitle = 'x'" if broken == "news" else "")
    told = f"{terms}, line 3" if broken == "document" else f"{news} cannot be used: in the piece"
    ended = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={
            **os.environ,
            "PORT": str(claim_port("127.0.0.1", 0)),
            "VAR_DIR": str(tmp_path / "var"),
            "DATABASE_URL": str(settings.database_url),
            "REDIS_URL": str(settings.redis_url),
            "DOCUMENTS": str(tmp_path),
            "NEWS": str(news),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode not in (0, None)
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "ready" not in ended.stdout
