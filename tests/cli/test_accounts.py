import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from horde.cli import main
from horde.cli.accounts import ensure_first_moderator
from horde.platform.errors import Unauthorized
from horde.platform.runtime import Platform
from horde.settings import Settings, load_settings
from horde.users import passkeys
from horde.users import service as users
from tests.support import scalar


@pytest.fixture(autouse=True)
def _environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.database_url
    assert settings.redis_url
    assert settings.secret_key
    monkeypatch.setenv("DATABASE_URL", settings.database_url)
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("VAR_DIR", str(settings.var_dir))
    monkeypatch.setenv("SECRET_KEY", settings.secret_key.get_secret_value())
    load_settings.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def test_a_created_user_can_log_in_and_holds_roles_and_kudos(platform: Platform) -> None:
    result = run("admin", "create-user", "Ada", "--moderator", "--educator", "--kudos", "100.5")
    assert result.exit_code == 0
    alias, key_line = result.output.splitlines()
    key = key_line.removeprefix("API key: ")
    assert len(key) == 22
    user = users.authenticate(platform, key)
    assert user.alias == alias == "Ada#1"
    assert user.roles == {"moderator", "trusted", "education"}
    assert user.concurrency == 200
    assert users.find_user(platform, key).kudos == 100.5


@pytest.mark.parametrize(
    "words",
    [
        ("create-user", ""),
        ("create-user", "x" * 31),
        ("create-user", "Ada", "--kudos", "lots"),
        ("create-user", "Ada", "--kudos", "NaN"),
        ("set-role", "1", "king"),
        ("set-role", "0", "trusted"),
        ("set-role", "99", "trusted"),
    ],
)
def test_what_cannot_be_is_refused(platform: Platform, words: tuple[str, ...]) -> None:
    result = run("admin", *words)
    assert result.exit_code != 0
    assert scalar(platform, "SELECT count(*) FROM users") == 1


def test_roles_come_and_go(platform: Platform) -> None:
    key = run("admin", "create-user", "Ada").output.split()[-1]
    assert "moderator, trusted" in run("admin", "set-role", "1", "moderator").output
    assert users.authenticate(platform, key).has(users.Role.MODERATOR)
    assert "now: trusted" in run("admin", "set-role", "1", "moderator", "--off").output


def test_the_first_moderator_gets_a_key_that_only_we_can_read(platform: Platform, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    ensure_first_moderator(platform, key_file)
    key = key_file.read_text().strip()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert users.authenticate(platform, key).roles == {"admin", "moderator", "trusted"}
    ensure_first_moderator(platform, key_file)
    assert key_file.read_text().strip() == key
    assert scalar(platform, "SELECT count(*) FROM users") == 2


def test_an_interrupted_first_start_is_made_good(platform: Platform, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text("a key whose account was never made")
    ensure_first_moderator(platform, key_file)
    assert users.authenticate(platform, key_file.read_text().strip()).has(users.Role.MODERATOR)


def test_administrators_are_made_and_unmade(platform: Platform) -> None:
    key = run("admin", "create-user", "Ada", "--admin").output.split()[-1]
    assert users.authenticate(platform, key).roles == {"admin"}
    assert "without roles" in run("admin", "set-role", "1", "admin", "--off").output
    assert "now: admin" in run("admin", "set-role", "1", "admin").output


def test_a_service_gets_a_passkey(platform: Platform) -> None:
    run("admin", "create-user", "Ada", "--service")
    result = run("admin", "passkey", "1")
    assert result.exit_code == 0
    assert passkeys.proxy_user(platform, result.output.removeprefix("Passkey: ").strip()) == 1


@pytest.mark.parametrize(
    ("user_id", "reason"), [("1", "service"), ("2", "no user"), ("0", "range"), ("x", "integer")]
)
def test_nobody_else_gets_a_passkey(platform: Platform, user_id: str, reason: str) -> None:
    run("admin", "create-user", "Ada", "--moderator")
    result = run("admin", "passkey", user_id)
    assert result.exit_code != 0
    assert reason in result.output
    assert scalar(platform, "SELECT count(*) FROM users WHERE proxy_passkey_hash IS NOT NULL") == 0


def test_keys_are_not_stored(platform: Platform) -> None:
    key = run("admin", "create-user", "Ada").output.split()[-1]
    stored = scalar(platform, "SELECT api_key_hash FROM users WHERE id = 1")
    assert key not in stored
    with pytest.raises(Unauthorized):
        users.authenticate(platform, stored[:22])


def test_the_ledger_command_tells_right_from_wrong(platform: Platform) -> None:
    run("admin", "create-user", "Ada", "--kudos", "10")
    good = run("ledger", "check")
    assert good.exit_code == 0
    assert "The books are right." in good.output
    with platform.engine.begin() as db:
        db.exec_driver_sql("UPDATE ledger_entries SET amount = amount + 1 WHERE line = 1")
    bad = run("ledger", "check")
    assert bad.exit_code == 1
    assert "do not sum to zero" in bad.output
