"""The tables as migrations make them are those that the code declares; what is live survives an upgrade."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, Engine, inspect, text
from sqlalchemy.engine import make_url

from horde.app import create_app
from horde.image import asked
from horde.image.schemas import GenerationInputStable
from horde.kudos import service as ledger
from horde.kudos.pricing import base_price
from horde.platform import migrate
from horde.platform.database import make_engine
from horde.platform.embedded import ServiceUrls
from horde.tables import Base
from horde.users import service as users
from horde.users.rules import Role, key_hash
from kudos_model.features import JobFeatures
from tests.rows_at_0004 import (
    BEGUN,
    JOB,
    OWNER_KEY,
    PAYLOAD,
    PLAIN,
    SCHOOLS,
    insert_people,
    insert_reference,
    insert_requests,
)
from tests.support import (
    CASCADE,
    FLUX,
    MODEL,
    SDXL,
    Horde,
    assert_books_balance,
    assert_queue_consistent,
    make_settings,
    scalar,
)


@pytest.fixture
def empty_database(services: ServiceUrls, database_admin: Engine) -> Iterator[str]:
    """The URL of a database without any table."""
    with database_admin.connect() as connection:
        connection.execute(text("CREATE DATABASE horde_empty"))
    yield make_url(services.database_url).set(database="horde_empty").render_as_string(hide_password=False)
    with database_admin.connect() as connection:
        connection.execute(text("DROP DATABASE horde_empty WITH (FORCE)"))


def test_migrations_make_the_declared_tables(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
        # What Alembic does not compare:
        made = {
            constraint["name"]
            for table in Base.metadata.tables
            for constraint in inspect(connection).get_check_constraints(table)
        }
    declared = {
        constraint.name
        for table in Base.metadata.tables.values()
        for constraint in table.constraints
        if isinstance(constraint, CheckConstraint)
    }
    assert made == declared
    engine.dispose()


def test_an_empty_database_is_brought_to_the_present(empty_database: str) -> None:
    assert not migrate.is_current(empty_database)
    migrate.upgrade(empty_database)
    assert migrate.is_current(empty_database)
    engine = make_engine(empty_database, pool_size=1)
    with engine.connect() as connection:
        tables = set(connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
        system_accounts = connection.scalars(text("SELECT purpose FROM accounts WHERE user_id IS NULL")).all()
    engine.dispose()
    assert tables == {table.name for table in Base.metadata.sorted_tables} | {"alembic_version"}
    assert sorted(system_accounts) == ["burn", "treasury"]


def test_upgrading_again_changes_nothing(database_url: str) -> None:
    engine = make_engine(database_url, pool_size=1)
    with engine.begin() as connection:
        connection.execute(text("UPDATE users SET contact = 'kept' WHERE id = 0"))
    migrate.upgrade(database_url)
    migrate.upgrade(database_url)
    with engine.connect() as connection:
        assert connection.scalars(text("SELECT contact FROM users")).all() == ["kept"]
    engine.dispose()


@pytest.fixture
def at_0004(empty_database: str) -> Iterator[Engine]:
    """A database at revision 0004."""
    command.upgrade(migrate._config(empty_database), "0004")
    engine = make_engine(empty_database, pool_size=1)
    yield engine
    engine.dispose()


@pytest.fixture
def upgraded(at_0004: Engine, redis_url: str, tmp_path: Path) -> Iterator[Horde]:
    """A horde whose database was upgraded while requests waited and a job was under way."""
    url = at_0004.url.render_as_string(hide_password=False)
    settings = make_settings(tmp_path / "var", database_url=url, redis_url=redis_url, secret_key="a secret")
    with at_0004.begin() as db:
        insert_reference(db)
        insert_people(db, key_hash(b"a secret", OWNER_KEY))
        insert_requests(db)
    migrate.upgrade(url)
    app = create_app(settings)
    platform = app.extensions["horde"]
    yield Horde(app.test_client(), platform)
    platform.close()


def test_educators_get_back_what_they_had(upgraded: Horde) -> None:
    users.set_role(upgraded.platform, 2, Role.EDUCATION, False)
    assert upgraded.call("GET", "/users/2").json["concurrency"] == 30


class TestLiveRequests:
    def test_they_are_looked_at(self, upgraded: Horde) -> None:
        for request, waiting, processing in ((PLAIN, 2, 0), (SCHOOLS, 1, 0), (BEGUN, 1, 1)):
            for found in (upgraded.check(str(request)), upgraded.status(str(request))):
                assert (found["waiting"], found["processing"], found["done"]) == (waiting, processing, False)
        assert upgraded.check(str(PLAIN))["explain"]["reasons"] == {"models": 1, "post-processing": 1}

    def test_they_are_served(self, upgraded: Horde) -> None:
        assert upgraded.submitted(OWNER_KEY, str(JOB)) == 2 * 19.37
        popped = [
            upgraded.popped(OWNER_KEY, models=[model], amount=20)
            for model in (MODEL, "Pony Diffusion XL", SDXL)
        ]
        assert [len(job["ids"]) for job in popped] == [2, 1, 1]
        assert popped[0]["payload"]["seed"] == "7"
        assert "clip_skip" not in popped[1]["payload"]  # which this model asks for, but nobody was told
        rewards = [upgraded.submitted(OWNER_KEY, image) for job in popped for image in job["ids"]]
        # Who accepts any model is charged for the one that is taken, at today's price.
        chosen = 2 * base_price(JobFeatures(512, 512, 30, "k_euler_a", 5.0))
        assert rewards == [9.42, 9.42, float(chosen), 2 * 19.37]
        ledger.fold_all(upgraded.platform)
        for request, kudos in ((PLAIN, 22), (SCHOOLS, round(chosen + 2)), (BEGUN, 96)):
            found = upgraded.status(str(request))
            assert (found["done"], found["kudos"]) == (True, kudos)
        assert scalar(upgraded.platform, "SELECT count(*) FROM reservations") == 0
        assert_books_balance(upgraded.platform)

    def test_what_is_given_back_is_served_again(self, upgraded: Horde) -> None:
        assert upgraded.submit(OWNER_KEY, str(JOB), state="faulted").status_code == 200
        assert len(upgraded.popped(OWNER_KEY, models=[SDXL], amount=20)["ids"]) == 2
        with upgraded.platform.read() as db:
            assert_queue_consistent(db)

    def test_they_say_all_that_new_ones_say(self, upgraded: Horde) -> None:
        request = GenerationInputStable.model_validate({"prompt": "a lighthouse at dawn"})
        new = asked.options_of(request, policy="warn", unsafe_ip=False).keys() | {"reserved"}
        with upgraded.platform.read() as db:
            options = {row.id: row.options for row in db.execute(text("SELECT id, options FROM requests"))}
        for stored in options.values():
            assert stored.keys() - {"facts"} == new
        told = ("nsfw", "trusted_workers", "supervised", "slow_workers")
        assert {request: [stored[name] for name in told] for request, stored in options.items()} == {
            PLAIN: [True, False, False, True],
            SCHOOLS: [False, True, True, True],
            BEGUN: [False, True, False, False],
        }


@pytest.mark.parametrize(
    ("model", "payload", "factor", "without_reference"),
    [
        (MODEL, {}, 1, 1),
        (SDXL, {"hires_fix": True}, 2, 1),
        (SDXL, {"hires_fix": True, "workflow": "qr_code"}, 4, 1),
        (CASCADE, {}, 4, 1),
        (CASCADE, {"hires_fix": True}, 7, 1),
        (FLUX, {}, 8, 1),
        ("somebody's [Qwen]", {}, 12, 12),
        ("somebody's", {"workflow": "qr_code"}, 1, 1),
    ],
)
@pytest.mark.parametrize("known", [True, False])
def test_jobs_under_way_are_worth_what_their_model_makes_of_the_price(
    at_0004: Engine, model: str, payload: dict[str, Any], factor: int, without_reference: int, known: bool
) -> None:
    with at_0004.begin() as db:
        if known:
            insert_reference(db)
        insert_requests(db)
        values = {"payload": orjson.dumps(PAYLOAD | payload).decode(), "model": model}
        db.execute(text("UPDATE requests SET payload = :payload"), values)
        db.execute(text("UPDATE jobs SET model = :model"), values)
    migrate.upgrade(at_0004.url.render_as_string(hide_password=False))
    with at_0004.connect() as db:
        worth = db.execute(text("SELECT things, CAST(value / 19.37 AS float) FROM jobs")).one()
    assert worth == (20971520, factor if known else without_reference)
