"""What tests share: a horde as its callers see it, small pictures, and what must hold of its tables."""

import base64
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from flask.testing import FlaskClient
from PIL import Image
from sqlalchemy import Connection, Engine, Table, delete, event, insert, select, text
from werkzeug.test import TestResponse

from horde.app import create_app
from horde.kudos import service as ledger
from horde.platform.runtime import Platform
from horde.settings import Settings
from horde.tables import Base
from horde.users import service as users
from horde.users.rules import ANONYMOUS_KEY, Role

T = TypeVar("T")


def make_settings(var_dir: Path, **values: Any) -> Settings:
    """The default settings with `values`, whatever `.env` says."""
    return Settings(_env_file=None, var_dir=var_dir, **{"secret_key": "a secret for tests"} | values)


MODEL = "stable_diffusion"
SDXL, CASCADE, FLUX = "SDXL 1.0", "Stable Cascade 1.0", "Flux.1-Schnell fp8 (Compact)"
"""Models of the starter reference, one for each of these baselines."""
PAINTER = "stable_diffusion_inpainting"
"""One that is made for filling in parts of images."""
AGENT = "AI Horde Worker reGen:13:https://example.com"
"""Worker software that can do everything and earns the full reward."""
TABLES = sorted(table.name for table in Base.metadata.sorted_tables)


def picture(width: int = 8, height: int = 8, colour: str = "teal", format: str = "WEBP") -> bytes:
    """A small picture file."""
    target = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(target, format, lossless=True)
    return target.getvalue()


WEBP = picture()
PICTURE = base64.b64encode(WEBP).decode()


@dataclass(frozen=True, slots=True)
class Account:
    """Somebody with an API key."""

    id: int
    key: str
    alias: str
    balance: int
    """The id of the account's spendable purse,"""
    escrow: int
    """and of the other one."""


def account(
    platform: Platform,
    *roles: Role,
    amount: int | Decimal = 0,
    username: str = "Somebody",
    registered: bool = False,
) -> Account:
    """A new account that holds `amount` folded kudos; pseudonymous (floor 14) unless `registered` (25)."""
    facts, key = users.create_user(
        platform,
        username,
        roles=roles,
        amount=Decimal(amount),
        external_id=f"login_{uuid4().hex}" if registered else None,
    )
    if amount:
        ledger.fold_all(platform)
    return Account(facts.id, key, facts.alias, facts.balance_account, facts.escrow_account)


def forget(platform: Platform) -> None:
    """Drop what this process keeps for some seconds, as if they had passed."""
    files = ("image_models", "text_models", "worker_software")
    kept = {name: entry for name, entry in platform.local._entries.items() if name in files}
    platform.local._entries.clear()
    platform.local._entries.update(kept)


def scalar(platform: Platform, query: str, **values: Any) -> Any:
    """The first value that a query returns."""
    with platform.read() as db:
        return db.execute(text(query), values).scalar()


def change(platform: Platform, statement: str, **values: Any) -> None:
    """Change the tables behind the server's back; it sees the new values at once."""
    with platform.engine.begin() as db:
        db.execute(text(statement), values)
    forget(platform)


def count_rows(platform: Platform) -> dict[str, int]:
    """The number of rows of every table."""
    with platform.read() as db:
        return {table: db.execute(text(f"SELECT count(*) FROM {table}")).scalar_one() for table in TABLES}


def files(platform: Platform) -> set[Path]:
    """All files in the folder of the local object store."""
    folder = platform.settings.var_dir / "objects"
    return {path for path in folder.rglob("*") if path.is_file()}


def contents(platform: Platform) -> dict[str, Any]:
    """A fingerprint of every table, and the stored files: equal before and after if nothing happened."""
    with platform.read() as db:
        tables = {
            table: db.execute(
                text(f"SELECT count(*), md5(string_agg(row::text, '|' ORDER BY row::text)) FROM {table} row")
            ).one()
            for table in TABLES
        }
    return {**tables, "files": {path: path.read_bytes() for path in files(platform)}}


Rows = dict[Table, list[dict[str, Any]]]


def save_rows(platform: Platform) -> Rows:
    """The rows of all tables, for `restore_rows`."""
    with platform.read() as db:
        return {
            table: [dict(row) for row in db.execute(select(table)).mappings()]
            for table in Base.metadata.sorted_tables
        }


def restore_rows(platform: Platform, rows: Rows) -> None:
    """Bring all tables back to what they held."""
    with platform.engine.begin() as db:
        for table in reversed(Base.metadata.sorted_tables):
            db.execute(delete(table))
        for table, saved in rows.items():
            if saved:
                db.execute(insert(table), saved)
    forget(platform)


@contextmanager
def unchanged(platform: Platform) -> Iterator[None]:
    """What runs inside leaves no trace in any table or in the object store."""
    before = contents(platform)
    yield
    assert contents(platform) == before


def in_threads(count: int, work: Callable[[int], T]) -> list[T]:
    """What `work` returns for each number below `count`, all started at the same moment."""
    barrier = threading.Barrier(count)

    def run(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


_BLOCKED = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND cardinality(pg_blocking_pids(pid)) > 0
"""


def wait_for_a_blocked_statement(platform: Platform, seconds: float = 10, *, statements: int = 1) -> None:
    """Return as soon as some statement waits for a lock that another transaction holds, or several do."""
    end = time.monotonic() + seconds
    while scalar(platform, _BLOCKED) < statements:
        assert time.monotonic() < end, "no statement waits for a lock"


@contextmanager
def counted_statements() -> Iterator[list[str]]:
    """The SQL statements that this process sends to any database inside."""
    statements: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements
    finally:
        event.remove(Engine, "before_cursor_execute", note)


def assert_books_balance(platform: Platform) -> None:
    """The ledger's own check finds nothing, and all kudos of the horde sum to zero."""
    _, broken = ledger.check_books(platform)
    assert broken == {}
    assert scalar(platform, "SELECT sum(balance) FROM accounts") == 0
    assert scalar(platform, "SELECT coalesce(sum(amount), 0) FROM ledger_entries") == 0


_OUT_OF_PLACE = text("""
    SELECT request.id, request.n, request.lanes, standing.lanes AS standing
    FROM requests request LEFT JOIN LATERAL (
        SELECT array_agg(lane_id ORDER BY lane_id) AS lanes FROM queue
        WHERE queue.request_id = request.id AND queue.rank = request.rank AND queue.size = request.size
    ) standing ON true
    WHERE CASE WHEN request.n > 0 THEN ARRAY(SELECT unnest(request.lanes) ORDER BY 1) ELSE '{}' END
        <> coalesce(standing.lanes, '{}')
        OR (SELECT count(*) FROM queue WHERE queue.request_id = request.id)
        <> coalesce(cardinality(standing.lanes), 0)
""")
_MISCOUNTED = text("""
    SELECT id, jobs, n, cancelled, faulted, taken, lost FROM requests, LATERAL (
        SELECT count(*) FILTER (WHERE state IN ('processing', 'ok', 'censored', 'csam')) AS taken,
            count(*) FILTER (WHERE state IN ('faulted', 'aborted')) AS lost
        FROM jobs WHERE jobs.request_id = requests.id AND NOT decoy
    ) counted
    WHERE CASE WHEN cancelled OR faulted THEN n <> 0 ELSE n + taken <> jobs END
        OR n + taken > jobs
        OR faulted AND lost < 3
        OR lost >= 3 AND NOT faulted AND NOT cancelled
""")


def assert_queue_consistent(db: Connection) -> None:
    """Waiting requests stand in all of their lanes and nobody else in any; no result is lost or doubled."""
    assert db.execute(_OUT_OF_PLACE).all() == []
    assert db.execute(_MISCOUNTED).all() == []


class Horde:
    """A horde as requesters and workers see it, over HTTP. Rate limits are never in the way."""

    def __init__(self, client: FlaskClient, platform: Platform) -> None:
        self.client = client
        self.platform = platform

    def account(self, *roles: Role, **values: Any) -> Account:
        """See `account`."""
        return account(self.platform, *roles, **values)

    def call(
        self,
        method: str,
        path: str,
        key: Account | str | None = None,
        headers: dict[str, str] | None = None,
        **values: Any,
    ) -> TestResponse:
        """Call `/api/v2<path>` as `key`; `values` are those of the test client (`json`, `data`, ...)."""
        counters = list(self.platform.cache.scan_iter("limit:*"))
        if counters:
            self.platform.cache.delete(*counters)
        headers = dict(headers or {})
        if key is not None:
            headers["apikey"] = key.key if isinstance(key, Account) else key
        return self.client.open(f"/api/v2{path}", method=method, headers=headers, **values)

    def ask(
        self, key: Account | str = ANONYMOUS_KEY, *, agent: str | None = None, **fields: Any
    ) -> TestResponse:
        """POST generate/async."""
        headers = {"Client-Agent": agent} if agent else {}
        return self.call(
            "POST", "/generate/async", key, headers, json={"prompt": "a lighthouse at dawn"} | fields
        )

    def asked(self, key: Account | str = ANONYMOUS_KEY, **fields: Any) -> str:
        """The id of a new request."""
        response = self.ask(key, **fields)
        assert response.status_code == 202, response.json
        return str(response.json["id"])

    def pop(self, key: Account | str, name: str = "worker", **fields: Any) -> TestResponse:
        """POST generate/pop, by default of a worker that can serve every plain request."""
        offer = {"name": name, "models": [MODEL], "bridge_agent": AGENT, "max_pixels": 4 * 1024 * 1024}
        return self.call("POST", "/generate/pop", key, json=offer | fields)

    def popped(self, key: Account | str, name: str = "worker", **fields: Any) -> dict[str, Any]:
        """What a pop that finds jobs answers."""
        response = self.pop(key, name, **fields)
        assert response.status_code == 200, response.json
        assert response.json["id"], response.json["skipped"]
        return dict(response.json)

    def skipped(self, key: Account | str, name: str = "worker", **fields: Any) -> dict[str, int]:
        """What a pop that finds nothing gives as reasons, without those that count nobody."""
        forget(self.platform)  # reasons are counted once a second
        response = self.pop(key, name, **fields)
        assert response.status_code == 200, response.json
        assert response.json["ids"] == []
        return {reason: count for reason, count in response.json["skipped"].items() if count}

    def submit(self, key: Account | str, job_id: str, **fields: Any) -> TestResponse:
        """POST generate/submit, by default of a picture in base64."""
        result = {"id": job_id, "generation": PICTURE, "seed": 1} | fields
        return self.call("POST", "/generate/submit", key, json=result)

    def submitted(self, key: Account | str, job_id: str, **fields: Any) -> float:
        """The reward for an accepted result."""
        response = self.submit(key, job_id, **fields)
        assert response.status_code == 200, response.json
        return float(response.json["reward"])

    def check(self, request_id: str) -> dict[str, Any]:
        """GET generate/check of a request that exists."""
        response = self.call("GET", f"/generate/check/{request_id}")
        assert response.status_code == 200, response.json
        return dict(response.json)

    def status(self, request_id: str) -> dict[str, Any]:
        """GET generate/status of a request that exists."""
        response = self.call("GET", f"/generate/status/{request_id}")
        assert response.status_code == 200, response.json
        return dict(response.json)

    def cancel(self, request_id: str) -> dict[str, Any]:
        """DELETE generate/status of a request that exists."""
        response = self.call("DELETE", f"/generate/status/{request_id}")
        assert response.status_code == 200, response.json
        return dict(response.json)

    def fetch(self, method: str, url: str, data: bytes | None = None) -> TestResponse:
        """Use a signed address of the object store."""
        parts = urlsplit(url)
        return self.client.open(f"{parts.path}?{parts.query}", method=method, data=data)

    def kudos(self, purse: int) -> Decimal:
        """What a purse holds, counting movements not yet folded."""
        with self.platform.read() as db:
            return ledger.effective_balance(db, purse)


@contextmanager
def another_process(horde: Horde, **values: Any) -> Iterator[Horde]:
    """The same horde served by another process, which has other settings."""
    app = create_app(horde.platform.settings.model_copy(update=values))
    try:
        yield Horde(app.test_client(), app.extensions["horde"])
    finally:
        app.extensions["horde"].close()


def assert_refused(response: TestResponse, status: int, rc: str, *words: str) -> None:
    """An answer that refuses: this status and code, and a text that holds `words` in any case."""
    content = response.json
    assert content is not None, response.data[:200]
    assert (response.status_code, content.get("rc")) == (status, rc), content
    assert "errors" not in content
    for word in words:
        assert word.lower() in content["message"].lower()
