"""A requester's own server is told about each delivered image."""

from collections.abc import Callable, Iterator
from decimal import Decimal
from ipaddress import ip_network
from typing import Any

import orjson
import pytest

from horde.generation import sweep
from horde.generation.webhooks import Sender
from horde.users.rules import Role
from tests.https_server import HttpsServer, https_server
from tests.platform.test_local_cache import wait_until
from tests.support import (
    PICTURE,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    scalar,
    unchanged,
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def calling(horde: Horde, server: HttpsServer) -> Iterator[Horde]:
    """The horde, allowed to call this machine."""
    server.received.clear()
    with another_process(
        horde, outbound_networks=(ip_network("127.0.0.0/8"),), outbound_ca_file=server.ca_file
    ) as process:
        yield process


@pytest.fixture
def owner(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED)


def test_each_delivered_image_is_told_once(calling: Horde, server: HttpsServer, owner: Account) -> None:
    request = calling.asked(webhook=server.url("/results"), params={"n": 2})
    jobs = [calling.popped(owner)["id"] for _ in range(2)]
    assert calling.submit(owner, jobs[0], seed=7).status_code == 200
    assert calling.submit(owner, jobs[0], seed=7).status_code == 400
    assert calling.submit(owner, jobs[1], state="faulted").status_code == 200
    sender = Sender()
    sender.deliver(calling.platform)
    wait_until(lambda: bool(server.received))
    sender.close()
    assert scalar(calling.platform, "SELECT count(*) FROM outbox") == 0
    (received,) = server.received
    body = orjson.loads(received.body)
    told = calling.status(request)["generations"][0]
    assert body.pop("seed") == 7
    assert body.pop("request") == request
    assert body.pop("kudos") > 0
    for generation in (body, told):
        assert generation.pop("img").startswith("http")
    assert body == {key: value for key, value in told.items() if key not in ("seed", "state")}


def told(horde: Horde, server: HttpsServer) -> list[dict[str, Any]]:
    """What is told of everything that has been delivered so far."""
    server.received.clear()
    expected = scalar(horde.platform, "SELECT count(*) FROM outbox")
    sender = Sender()
    sender.deliver(horde.platform)
    wait_until(lambda: scalar(horde.platform, "SELECT count(*) FROM outbox") == 0)
    sender.close()
    bodies = [orjson.loads(received.body) for received in server.received]
    assert len(bodies) == expected
    return bodies


FIELDS = {
    *("id", "img", "seed", "model", "worker_id", "worker_name", "censored", "gen_metadata"),
    *("request", "kudos"),
}


@pytest.mark.parametrize(
    ("result", "censored"),
    [
        ({}, False),
        ({"gen_metadata": [{"type": "lora", "value": "download_failed", "ref": "1"}]}, False),
        ({"state": "censored"}, True),
        ({"gen_metadata": [{"type": "censorship", "value": "csam"}]}, True),
    ],
)
@pytest.mark.parametrize("r2", [True, False])
def test_what_is_told(
    calling: Horde, server: HttpsServer, owner: Account, result: dict[str, Any], censored: bool, r2: bool
) -> None:
    calling.asked(webhook=server.url(), r2=r2)
    calling.submitted(owner, calling.popped(owner)["id"], seed=2**32, **result)
    (body,) = told(calling, server)
    assert body.keys() == FIELDS
    assert (body["censored"], body["gen_metadata"]) == (censored, result.get("gen_metadata", []))
    assert body["seed"] == 2**32
    image = body["img"]
    assert (calling.fetch("GET", image).status_code == 200) if r2 else image == PICTURE


@pytest.mark.parametrize("agent", ["AI Horde Worker reGen:13:x", "SD-WebUI Stable Horde Worker Bridge:4:x"])
def test_the_kudos_are_what_the_work_is_worth(
    calling: Horde, server: HttpsServer, owner: Account, agent: str
) -> None:
    """Before burn, and whatever the worker's software earns of it."""
    payer = calling.account(amount=500)
    calling.asked(payer, models=[SDXL], webhook=server.url())
    calling.submitted(owner, calling.popped(owner, models=[SDXL], bridge_agent=agent)["id"])
    (body,) = told(calling, server)
    assert Decimal(str(body["kudos"])) == 498 - calling.kudos(payer.balance)


def fault(horde: Horde, owner: Account, request: str) -> None:
    for _ in range(3):
        horde.submitted(owner, horde.popped(owner)["id"], state="faulted")
    assert horde.check(request)["faulted"]


def run_out_of_time(horde: Horde, owner: Account, request: str) -> None:
    job = horde.popped(owner)["id"]
    change(horde.platform, "UPDATE jobs SET deadline = now() - interval '1 second'")
    assert sweep.abort_overdue_jobs(horde.platform) == 1
    assert_refused(horde.submit(owner, job), 400, "AbortedGen")


def expire(horde: Horde, owner: Account, request: str) -> None:
    change(horde.platform, "UPDATE requests SET expires = now() - interval '1 second'")
    assert sweep.expire_requests(horde.platform) == 1


def send_no_picture(horde: Horde, owner: Account, request: str) -> None:
    job = horde.popped(owner)["id"]
    assert_refused(horde.submit(owner, job, generation="no picture"), 400, "ImageValidationFailed")


@pytest.mark.parametrize(
    "happens",
    [
        fault,
        run_out_of_time,
        expire,
        send_no_picture,
        lambda horde, _owner, request: horde.cancel(request),
        lambda horde, _owner, request: horde.status(request),
    ],
)
def test_of_nothing_but_deliveries(
    calling: Horde, server: HttpsServer, owner: Account, happens: Callable[[Horde, Account, str], object]
) -> None:
    request = calling.asked(webhook=server.url(), params={"n": 3})
    happens(calling, owner, request)
    assert scalar(calling.platform, "SELECT count(*) FROM outbox") == 0
    assert server.received == []


def test_of_what_is_delivered_after_cancelling(calling: Horde, server: HttpsServer, owner: Account) -> None:
    request = calling.asked(webhook=server.url(), params={"n": 2})
    job = calling.popped(owner)["id"]
    calling.cancel(request)
    calling.submitted(owner, job)
    assert [body["id"] for body in told(calling, server)] == [job]


def test_a_message_outlives_its_request(calling: Horde, server: HttpsServer, owner: Account) -> None:
    request = calling.asked(webhook=server.url())
    calling.submitted(owner, calling.popped(owner)["id"])
    change(calling.platform, "UPDATE jobs SET finished = now() - interval '1 hour'")
    expire(calling, owner, request)
    assert [body["request"] for body in told(calling, server)] == [request]


def test_a_dry_run_tells_nobody(calling: Horde, server: HttpsServer) -> None:
    with unchanged(calling.platform):
        assert calling.ask(webhook=server.url(), dry_run=True).status_code == 200


@pytest.mark.parametrize("url", ["https://a", "", "https://example.com/" + "a" * 1005, 5, None])
def test_addresses_of_another_length_do_not_fit(horde: Horde, url: Any) -> None:
    response = horde.ask(webhook=url)
    assert response.status_code == 400
    assert response.json["errors"].keys() == {"webhook"}


def test_nothing_is_told_without_a_webhook(calling: Horde, owner: Account) -> None:
    calling.asked()
    calling.submitted(owner, calling.popped(owner)["id"])
    assert scalar(calling.platform, "SELECT count(*) FROM outbox") == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/hook",
        "https://127.0.0.1/hook",
        "https://[::1]/hook",
        "https://10.0.0.1/hook",
        "https://user:password@example.com/hook",
        "ftp://example.com",
    ],
)
def test_addresses_that_may_not_be_called_are_refused(horde: Horde, url: str) -> None:
    assert_refused(horde.ask(webhook=url), 400, "BadRequest", "webhook")
    assert scalar(horde.platform, "SELECT count(*) FROM requests") == 0
