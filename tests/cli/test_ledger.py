from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from horde.cli.ledger import ledger
from horde.kudos import reconciliation
from horde.platform.runtime import Platform
from horde.settings import Settings, load_settings
from tests.support import account, change, scalar

ENVIRONMENT = ("DATABASE_URL", "REDIS_URL", "VAR_DIR")


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command works on the test's own database."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, str(getattr(settings, name.lower())))
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def run(*words: str) -> Result:
    return CliRunner().invoke(ledger, words)


def test_drift_is_shown_and_repaired_only_when_told(platform: Platform) -> None:
    user = account(platform, amount=500)
    change(platform, "UPDATE accounts SET balance = balance + 7.25 WHERE id = :id", id=user.balance)
    assert "nightly" not in run("check").output
    reconciliation.check_nightly(platform)
    shown = run("check")
    assert shown.exit_code == 1
    assert "Last nightly check" in shown.output
    assert "balances that differ" in shown.output
    query = "SELECT balance FROM accounts WHERE id = :id"
    assert float(scalar(platform, query, id=user.balance)) == 507.25
    repaired = run("check", "--repair")
    assert repaired.exit_code == 0
    assert f"account {user.balance}: its balance was off by 7.25 kudos" in repaired.output
    assert "The books are right." in repaired.output
    assert scalar(platform, query, id=user.balance) == 500
    assert "Nothing has drifted" in run("check", "--repair").output


def test_what_no_entry_can_repair_stays_wrong(platform: Platform) -> None:
    account(platform, amount=500)
    change(platform, "UPDATE ledger_entries SET amount = amount + 1 WHERE line = 1")
    for words in (("check",), ("check", "--repair")):
        result = run(*words)
        assert result.exit_code == 1
        assert "do not sum to zero" in result.output
