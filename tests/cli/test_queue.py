from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from horde.cli.queue import queue
from horde.image import jobs, seeding
from horde.image.schemas import PopInputStable
from horde.kudos import service as ledger
from horde.platform.runtime import Platform
from horde.settings import Settings, load_settings
from horde.users import service as users

ENVIRONMENT = ("DATABASE_URL", "REDIS_URL", "VAR_DIR")


@pytest.fixture(autouse=True)
def environment(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The command works on the test's own database."""
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, str(getattr(settings, name.lower())))
    load_settings.cache_clear()
    yield
    load_settings.cache_clear()


def seed(*options: str) -> Result:
    return CliRunner().invoke(queue, ["seed", "--kind", "image", *options])


def pop(platform: Platform) -> list[str]:
    """The ids of the jobs that a worker gets which offers all usual models and is ordinary otherwise."""
    _, api_key = users.create_user(platform, "owner")
    offer = PopInputStable(
        name="plain worker",
        models=seeding.usual_models(platform),
        bridge_agent="AI Horde Worker reGen:13:https://example.org/worker",
    )
    ids: list[str] = jobs.pop(platform, api_key, "127.0.0.1", offer)["ids"]
    return ids


def count(platform: Platform, table: str) -> int:
    with platform.read() as db:
        return int(db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.mark.parametrize(
    ("mix", "served"),
    [((), False), (("--not-matching",), False), (("--other-skills",), False), (("--matching",), True)],
)
def test_seed_queues_what_a_plain_worker_can_or_cannot_serve(
    platform: Platform, mix: tuple[str, ...], served: bool
) -> None:
    result = seed("--depth", "60", "--lanes", "50", *mix)
    assert result.exit_code == 0, result.output
    assert "60 image requests" in result.output
    assert count(platform, "requests WHERE n > 0") == 60
    assert count(platform, "lanes") == 50
    assert bool(pop(platform)) is served


def test_seed_spends_what_the_requests_cost_and_keeps_the_books_right(platform: Platform) -> None:
    seed("--depth", "10")
    ledger.fold_all(platform)
    counts, broken = ledger.check_books(platform)
    assert broken == {}
    assert counts["events"] == 11  # the account's start, and a tax for each
    with platform.read() as db:
        balance = db.execute(text("SELECT balance FROM accounts WHERE balance > 0 AND user_id > 0"))
        assert balance.scalar_one() == 10 * seeding.KUDOS_EACH - 10


def test_seed_refuses_more_lanes_than_there_are_and_queues_nothing(platform: Platform) -> None:
    result = seed("--depth", "20000", "--lanes", "20000", "--matching")
    assert result.exit_code == 1
    assert "Ask for fewer" in result.output
    assert count(platform, "requests") == 0
    assert "Traceback" not in result.output
