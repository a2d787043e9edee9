"""A horde that may fetch pictures from a server of the tests' own."""

import base64
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from tests.https_server import HttpsServer, https_server, reply
from tests.support import Horde, another_process, forget, picture

RED = picture(colour="red")


def text(data: bytes) -> str:
    """`data` in base64."""
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer) -> HttpsServer:
    """Answers with a red picture until a test says otherwise."""
    module_server.received.clear()
    module_server.names.clear()
    module_server.answer = reply(body=RED)
    return module_server


@pytest.fixture(scope="module")
def fetching_process(shared_horde: Horde, module_server: HttpsServer) -> Iterator[Horde]:
    allowed = {
        "outbound_networks": (ip_network("127.0.0.0/8"),),
        "outbound_ca_file": module_server.ca_file,
    }
    with another_process(shared_horde, **allowed) as process:
        yield process


@pytest.fixture
def fetching(horde: Horde, fetching_process: Horde, server: HttpsServer) -> Horde:
    """The horde as a process serves it that may fetch from `server`."""
    forget(fetching_process.platform)
    return fetching_process
