"""A requester's own server is told about each delivered image."""

from collections.abc import Iterator
from ipaddress import ip_network

import orjson
import pytest

from horde.generation.webhooks import Sender
from horde.users.rules import Role
from tests.https_server import HttpsServer, https_server
from tests.platform.test_local_cache import wait_until
from tests.support import Account, Horde, another_process, assert_refused, scalar


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
