"""What one process changes of an account, every other one shows to everybody as soon as it has been told."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import pytest
from click.testing import CliRunner

from horde.cli import main
from horde.kudos import service as ledger
from horde.kudos.rules import Entry, balanced, kudos
from horde.platform.local_cache import CHANNEL
from horde.settings import load_settings
from horde.users import access, trust
from horde.users.rules import ANONYMOUS_KEY, Role
from tests.support import Account, Horde, another_process, assert_refused, change

TOLD_SECONDS = 5.0
"""Much less than what is kept is kept for."""
APPLICATION = {"institution": "School", "contact": "a@school.example", "purpose": "Lessons in art"}


def told(horde: Horde) -> int:
    """How many processes listen to what others change."""
    return int(horde.platform.cache.pubsub_numsub(CHANNEL)[0][1])


@contextmanager
def listening(process: Horde) -> Iterator[Horde]:
    """It hears of changes, as `Runner` lets every process."""
    stop, before = threading.Event(), told(process)
    listener = threading.Thread(target=process.platform.local.listen, args=(stop,))
    listener.start()
    try:
        eventually(lambda: told(process) == before + 1)
        yield process
    finally:
        stop.set()
        listener.join()


def eventually(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + TOLD_SECONDS
    while not holds():
        assert time.monotonic() < end, "it is not so in time"
        time.sleep(0.02)


def hear(process: Horde) -> None:
    """Let it hear all that others have told until now: messages keep their order."""
    marks = iter(["said"])
    process.platform.local.put("mark", 60, "kept")
    process.platform.cache.publish(CHANNEL, "mark")
    eventually(lambda: process.platform.local.get("mark", 60, lambda: next(marks)) == "said")


@pytest.fixture
def horde(horde: Horde) -> Iterator[Horde]:
    with listening(horde):
        yield horde


@pytest.fixture
def other(horde: Horde) -> Iterator[Horde]:
    with another_process(horde) as process, listening(process):
        yield process


class Cast:
    """Somebody of each privilege, and the account that is changed, which has a paused worker."""

    def __init__(self, horde: Horde) -> None:
        self.horde = horde
        self.owner = horde.account(username="Owner", amount=100)
        self.moderator = horde.account(Role.MODERATOR, Role.ADMIN, username="Moderator")
        self.stranger = horde.account(Role.TRUSTED, username="Stranger")
        horde.pop(self.owner)
        change(horde.platform, "UPDATE workers SET paused = true")
        application = horde.call("POST", "/users/education", self.owner, json=APPLICATION)
        self.application = application.json["id"]

    def seen(self, process: Horde) -> dict[str, Any]:
        """What everybody sees of the account, and the account of others, in a process."""
        keys: dict[str, Account | str | None] = {
            "nobody": None,
            "anonymous": ANONYMOUS_KEY,
            "owner": self.owner,
            "moderator": self.moderator,
            "stranger": self.stranger,
        }
        shown: dict[str, Any] = {}
        for who, key in keys.items():
            for path in (
                f"/users/{self.owner.id}",
                "/find_user",
                "/users",
                "/workers",
                "/workers/name/worker",
            ):
                shown[f"{who} at {path}"] = process.call("GET", path, key).json
        shown["what the owner sees of others"] = process.call(
            "GET", f"/users/{self.stranger.id}", self.owner
        ).json
        return dict(_timeless(shown))

    def put(self, **fields: Any) -> None:
        response = self.horde.call("PUT", f"/users/{self.owner.id}", self.moderator, json=fields)
        assert response.status_code == 200, response.json

    def delete(self) -> None:
        response = self.horde.call("DELETE", f"/users/{self.owner.id}", self.owner)
        assert response.status_code == 200, response.json

    def wipe(self) -> None:
        self.delete()
        with self.horde.platform.engine.begin() as db:
            for statement in (
                "UPDATE user_roles SET granted = now() - interval '31 days'",
                "UPDATE users SET last_active = now() - interval '31 days'",
            ):
                db.exec_driver_sql(statement)
        self.delete()

    def decide(self) -> None:
        path = f"/users/education/{self.application}"
        response = self.horde.call("PATCH", path, self.moderator, json={"granted": True})
        assert response.status_code == 200, response.json

    def promote(self) -> None:
        with self.horde.platform.engine.begin() as db:
            db.exec_driver_sql("UPDATE users SET created = now() - interval '7 days'")
            ledger.post(db, uuid4(), "test", balanced([Entry(self.owner.escrow, kudos(100))]))
        ledger.fold_all(self.horde.platform)
        with another_process(self.horde, kudos_trust_threshold=10) as leader:
            assert trust.review(leader.platform) == 1

    def renew(self) -> None:
        access.renew_key(self.horde.platform, self.owner.id, "Renamed")


def _timeless(shown: Any) -> Any:
    """Without what changes by itself."""
    if isinstance(shown, dict):
        return {
            name: _timeless(value) for name, value in shown.items() if name not in ("account_age", "uptime")
        }
    return [_timeless(each) for each in shown] if isinstance(shown, list) else shown


CHANGES: dict[str, Callable[[Cast], None]] = {
    "a name": lambda people: people.put(username="Renamed"),
    "who sees the workers": lambda people: people.put(public_workers=True),
    "contact and comment": lambda people: people.put(
        contact="me@example.com", admin_comment="a note of ours"
    ),
    "kudos": lambda people: people.put(kudos=500, monthly_kudos=50),
    "limits": lambda people: people.put(concurrency=77, worker_invited=5),
    "the moderator role": lambda people: people.put(moderator=True),
    "trust": lambda people: people.put(trusted=True),
    "other roles": lambda people: people.put(flagged=True, vpn=True, special=True, customizer=True),
    "education": lambda people: people.put(education=True),
    "a deletion": Cast.delete,
    "a wipe": Cast.wipe,
    "a decision about a school": Cast.decide,
    "a promotion": Cast.promote,
    "a new API key": Cast.renew,
}


@pytest.mark.parametrize("what", CHANGES)
def test_everybody_sees_it_everywhere(horde: Horde, other: Horde, what: str) -> None:
    people = Cast(horde)
    before = people.seen(other)
    assert people.seen(horde) == before
    CHANGES[what](people)
    with another_process(horde) as fresh:
        truth = people.seen(fresh)
    assert truth != before
    for process in (horde, other):
        hear(process)
        assert people.seen(process) == truth


def test_a_role_from_the_command_line(horde: Horde, other: Horde, monkeypatch: pytest.MonkeyPatch) -> None:
    people, settings = Cast(horde), horde.platform.settings
    before = people.seen(other)
    people.seen(horde)
    assert settings.secret_key
    for name, value in (
        ("DATABASE_URL", settings.database_url),
        ("REDIS_URL", settings.redis_url),
        ("VAR_DIR", settings.var_dir),
        ("SECRET_KEY", settings.secret_key.get_secret_value()),
    ):
        monkeypatch.setenv(name, str(value))
    load_settings.cache_clear()
    result = CliRunner().invoke(main, ["admin", "set-role", str(people.owner.id), "moderator"])
    load_settings.cache_clear()
    assert result.exit_code == 0, result.output
    with another_process(horde) as fresh:
        truth = people.seen(fresh)
    assert truth != before
    for process in (horde, other):
        hear(process)
        assert people.seen(process) == truth


def test_a_moderator_no_more(horde: Horde, other: Horde) -> None:
    people = Cast(horde)
    people.put(moderator=True)
    path, note = f"/users/{people.stranger.id}", {"admin_comment": "a note of ours"}
    hear(other)
    assert other.call("PUT", path, people.owner, json=note).status_code == 200
    people.put(moderator=False)
    hear(other)
    assert_refused(other.call("PUT", path, people.owner, json=note), 403, "NotModerator")


@pytest.mark.parametrize("way", ["by hand", "by the rules"])
def test_workers_of_who_becomes_trusted(horde: Horde, other: Horde, way: str) -> None:
    """They get what is for trusted workers from then on, and nothing of that once the trust has ended."""
    people = Cast(horde)
    change(horde.platform, "UPDATE workers SET paused = false")

    def gets(process: Horde) -> bool:
        return bool(process.pop(people.owner).json["id"])

    horde.asked(people.stranger, trusted_workers=True, params={"n": 3})
    assert not gets(horde)
    assert not gets(other)
    if way == "by hand":
        people.put(trusted=True)
    else:
        people.promote()
    for process in (other, horde):
        hear(process)
        assert gets(process)
    people.put(trusted=False)
    for process in (other, horde):
        hear(process)
        assert not gets(process)
