from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from horde.cli.ledger import ledger
from horde.kudos import reconciliation
from horde.platform.runtime import Platform
from horde.settings import Settings, load_settings
from tests.support import account, change, scalar, unchanged

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


def test_nothing_is_repaired_where_entries_were_lost(platform: Platform) -> None:
    user = account(platform, amount=500)
    change(platform, "UPDATE ledger_entries SET amount = amount + 1 WHERE line = 1")
    for words in (("check",), ("check", "--repair")):
        with unchanged(platform):
            result = run(*words)
        assert result.exit_code == 1
        assert "do not sum to zero" in result.output
    assert "No balance is repaired" in result.output
    change(platform, "UPDATE ledger_entries SET amount = amount - 1 WHERE line = 1")
    assert run("check", "--repair").exit_code == 0
    assert scalar(platform, "SELECT balance FROM accounts WHERE id = :id", id=user.balance) == 500


def test_reservations_of_requests_that_are_gone_are_given_back(platform: Platform) -> None:
    user = account(platform, amount=500)
    change(platform, "INSERT INTO reservations VALUES (gen_random_uuid(), :id, 5, 5)", id=user.balance)
    assert run("check").exit_code == 1
    repaired = run("check", "--repair")
    assert repaired.exit_code == 0
    assert "1 reservation" in repaired.output
    assert "Given back" not in run("check", "--repair").output


def test_status(platform: Platform) -> None:
    shown = run("status")
    assert shown.exit_code == 0
    assert "Last folded at an unknown time." in shown.output
    user = account(platform, amount=500)
    change(platform, "INSERT INTO reservations VALUES (gen_random_uuid(), :id, 7.5, 7.5)", id=user.balance)
    reconciliation.check_nightly(platform)
    shown = run("status")
    assert shown.exit_code == 0
    for words in ("Last nightly check", "Last folded 0 s ago", "0 unfolded", "1 reservations of 7.50 kudos"):
        assert words in shown.output
    change(platform, "UPDATE ledger_entries SET folded = false, created = now() - interval '61 seconds'")
    shown = run("status")
    assert shown.exit_code == 1
    assert "2 unfolded entries, the oldest for 61 s" in shown.output
    assert "behind" in shown.output
