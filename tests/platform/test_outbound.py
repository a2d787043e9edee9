"""Calling addresses that strangers name: what is refused, what the limits are, and that names are pinned."""

import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.platform.outbound import MAX_REDIRECTS, OutboundError, check_url, fetch, post_json
from horde.settings import Settings
from tests.https_server import Answer, HttpsServer, https_server, reply
from tests.platform.gevent_process import run_with_gevent
from tests.support import make_settings

TIME = 0.4
"""Seconds allowed to servers that are too slow."""
PATIENCE = 5.0
"""Seconds allowed to servers that are not."""

PRIVATE = ip_network("127.0.0.0/8"), ip_network("10.0.0.0/8"), ip_network("169.254.0.0/16")


@pytest.fixture(scope="module")
def module_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsServer]:
    with https_server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def server(module_server: HttpsServer) -> HttpsServer:
    """Answers with nothing until a test says otherwise."""
    module_server.received.clear()
    module_server.names.clear()
    module_server.answer = reply()
    return module_server


@pytest.fixture
def settings(server: HttpsServer, tmp_path: Path) -> Settings:
    """Settings that allow the test server."""
    return make_settings(tmp_path, outbound_networks="127.0.0.0/8", outbound_ca_file=server.ca_file)


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings as they come: public addresses only."""
    return make_settings(tmp_path_factory.mktemp("var"))


class Resolver:
    """Stands in for the DNS: each name has a list of answers, of which the last one stays."""

    def __init__(self) -> None:
        self.answers: dict[str, list[list[str]]] = {}
        self.asked: list[str] = []
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *args: Any, **values: Any) -> list[Any]:
        self.asked.append(host)
        if host not in self.answers:
            return self._real(host, port, *args, **values)
        answers = self.answers[host]
        now = answers.pop(0) if len(answers) > 1 else answers[0]
        return [entry for address in now for entry in self._real(address, port, *args, **values)]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    return resolver


def get(settings: Settings, url: str, max_bytes: int = 1000, seconds: float = PATIENCE) -> bytes:
    return fetch(settings, url, max_bytes=max_bytes, seconds=seconds)


class TestAddresses:
    @pytest.mark.parametrize(
        "url",
        [
            "https://example.com",
            "HTTPS://Example.COM/a/b.webp?size=1&x=%20#part",
            "https://example.com:443/",
            "https://example.com:8443/",
            "https://example.com:1024/",
            "https://example.com./",
            "https://my_host.example.com/",
            "https://xn--bcher-kva.example/",
            "https://bücher.example/ü?ü",
            "https://8.8.8.8/",
            "https://[2606:4700:4700::1111]/",
            "https://[::ffff:8.8.8.8]/",
            "https://[64:ff9b::8.8.8.8]/",
        ],
    )
    def test_public_ones_are_accepted(self, strict: Settings, url: str) -> None:
        check_url(strict, url)

    @pytest.mark.parametrize(
        "url",
        [
            "",
            "http://example.com/",
            "ftp://example.com/",
            "//example.com/",
            " https://example.com/",
            "https:example.com",
            "https:///path",
            "https://",
            "https://exa mple.com/",
            "https://example.com\\@10.0.0.1/",
            "https://example.com/\r\nHost: inside",
            "https://exam\tple.com/",
            "https://example.com/\x00",
            "https://example.com/\ud800",
            "https://user@example.com/",
            "https://user:secret@example.com/",
            "https://@example.com/",
            "https://example.com:0/",
            "https://example.com:22/",
            "https://example.com:80/",
            "https://example.com:1023/",
            "https://example.com:65536/",
            "https://example.com:x/",
            "https://-example.com/",
            "https://example..com/",
            "https://" + "a" * 254,
        ],
    )
    def test_malformed_ones_are_refused(self, strict: Settings, url: str) -> None:
        with pytest.raises(OutboundError):
            check_url(strict, url)

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1", "127.0.0.1.", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254",
            "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "239.255.255.250", "240.0.0.1",
            "192.0.2.1", "198.18.0.1", "[::1]", "[::]", "[fe80::1]", "[fe80::1%25eth0]",
            "[2606:4700:4700::1111%25eth0]", "[fc00::1]", "[fec0::1]", "[ff02::1]", "[ff0e::1]",
            "[2001:db8::1]", "[2001::1]", "[::127.0.0.1]", "[::ffff:127.0.0.1]", "[::ffff:a00:1]",
            "[64:ff9b::10.0.0.1]", "[64:ff9b:1::8.8.8.8]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::1]",
        ],
    )  # fmt: skip
    def test_private_ones_are_refused(self, strict: Settings, host: str) -> None:
        with pytest.raises(OutboundError):
            check_url(strict, f"https://{host}/")

    @pytest.mark.parametrize(
        "host",
        ["2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.1", "017700000001", "0", "0x",
         "127.0.0.1.0", "evil.0x7f000001", "8.8.8.08",
         "\uff11\uff12\uff17.\uff10.\uff10.\uff11", "127\u30020\u30020\u30021"],
    )  # fmt: skip
    def test_numbers_that_resolvers_read_as_addresses_are_refused(self, strict: Settings, host: str) -> None:
        with pytest.raises(OutboundError):
            check_url(strict, f"https://{host}/")

    @given(st.one_of([st.ip_addresses(network=network) for network in PRIVATE]))
    def test_no_notation_hides_a_private_address(self, strict: Settings, address: IPv4Address) -> None:
        inner = int(address)
        for outer in (
            address,
            IPv6Address(inner),
            IPv6Address(0xFFFF << 32 | inner),
            IPv6Address(0x64FF9B << 96 | inner),
            IPv6Address(0x2002 << 112 | inner << 80),
        ):
            host = f"[{outer}]" if isinstance(outer, IPv6Address) else outer
            with pytest.raises(OutboundError):
                check_url(strict, f"https://{host}/")

    def test_operators_can_allow_networks(self, tmp_path: Path) -> None:
        settings = make_settings(tmp_path, outbound_networks="10.1.0.0/16, fd00::/8")
        check_url(settings, "https://10.1.2.3/")
        check_url(settings, "https://[::ffff:10.1.2.3]/")
        check_url(settings, "https://[fd00::1]/")
        for host in ("10.2.0.1", "[fc00::1]"):
            with pytest.raises(OutboundError):
                check_url(settings, f"https://{host}/")


class TestNames:
    def test_a_name_is_resolved_once_and_kept_to(
        self, server: HttpsServer, settings: Settings, resolver: Resolver
    ) -> None:
        resolver.answers["hook.test"] = [["127.0.0.1"], ["169.254.169.254"]]
        server.answer = reply(body=b"here")
        assert get(settings, server.url(host="hook.test")) == b"here"
        assert resolver.asked == ["hook.test"]
        assert server.names == ["hook.test"]
        assert server.received[0].headers["Host"] == f"hook.test:{server.port}"

    def test_it_is_checked_anew_for_each_call(
        self, server: HttpsServer, settings: Settings, resolver: Resolver
    ) -> None:
        resolver.answers["hook.test"] = [["127.0.0.1"], ["10.0.0.1"]]
        get(settings, server.url(host="hook.test"))
        with pytest.raises(OutboundError, match="public"):
            get(settings, server.url(host="hook.test"))

    @pytest.mark.parametrize(
        "inside", ["10.0.0.1", "169.254.169.254", "fd00::1", "fe80::1", "::ffff:10.0.0.1", "64:ff9b::a00:1"]
    )
    def test_one_private_address_among_others_is_enough_to_refuse(
        self, server: HttpsServer, settings: Settings, resolver: Resolver, inside: str
    ) -> None:
        resolver.answers["hook.test"] = [["127.0.0.1", inside]]
        with pytest.raises(OutboundError, match="public"):
            get(settings, server.url(host="hook.test"))
        assert server.received == []

    def test_without_exceptions_the_test_server_is_out_of_reach(
        self, server: HttpsServer, tmp_path: Path
    ) -> None:
        settings = make_settings(tmp_path, outbound_ca_file=server.ca_file)
        with pytest.raises(OutboundError, match="public"):
            get(settings, server.url(host="localhost"))
        assert server.received == []

    def test_where_one_address_refuses_the_next_is_tried(
        self, server: HttpsServer, settings: Settings, resolver: Resolver
    ) -> None:
        resolver.answers["hook.test"] = [["127.0.0.2", "127.0.0.1"]]
        server.answer = reply(body=b"here")
        assert get(settings, server.url(host="hook.test")) == b"here"

    def test_a_name_without_an_address(self, settings: Settings, resolver: Resolver) -> None:
        resolver.answers["hook.test"] = [[]]
        with pytest.raises(OutboundError, match="reached"):
            get(settings, "https://hook.test/")

    def test_certificates_are_checked_for_the_name(
        self, server: HttpsServer, settings: Settings, resolver: Resolver
    ) -> None:
        resolver.answers["other.test"] = [["127.0.0.1"]]
        with pytest.raises(OutboundError, match="certificate"):
            get(settings, server.url(host="other.test"))
        assert server.received == []

    def test_certificates_of_unknown_authorities_are_refused(
        self, server: HttpsServer, tmp_path: Path
    ) -> None:
        settings = make_settings(tmp_path, outbound_networks="127.0.0.0/8")
        with pytest.raises(OutboundError, match="certificate"):
            get(settings, server.url())

    def test_a_plain_address_has_certificates_too(self, server: HttpsServer, settings: Settings) -> None:
        server.answer = reply(body=b"here")
        assert get(settings, server.url(host="127.0.0.1")) == b"here"


class TestFetch:
    def test_nothing_of_ours_is_told(
        self, server: HttpsServer, settings: Settings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        server.answer = reply(302, Location="/two", Set_Cookie="a=b")
        with pytest.raises(OutboundError):
            get(settings, server.url())
        assert {name for received in server.received for name in received.headers} == {
            "Host", "Accept-Encoding", "User-Agent", "Accept", "Connection",
        }  # fmt: skip

    def test_path_and_query_arrive(self, server: HttpsServer, settings: Settings) -> None:
        get(settings, server.url("/a b/ü;p?x=ü&y=%2F#fragment"))
        assert server.received[0].path == "/a%20b/%C3%BC;p?x=%C3%BC&y=%2F"

    @pytest.mark.parametrize("status", [201, 204, 304, 404, 500])
    def test_only_status_200_counts(self, server: HttpsServer, settings: Settings, status: int) -> None:
        server.answer = reply(status)
        with pytest.raises(OutboundError, match=str(status)):
            get(settings, server.url())

    @pytest.mark.parametrize("length", [0, 1, 1000])
    def test_up_to_the_limit(self, server: HttpsServer, settings: Settings, length: int) -> None:
        server.answer = reply(body=b"x" * length)
        assert get(settings, server.url(), max_bytes=1000) == b"x" * length

    @pytest.mark.parametrize(
        "announced", [{"Content_Length": "1001"}, {"Content_Length": "nonsense"}, {"Content_Length": "-1"}]
    )
    def test_over_the_limit(self, server: HttpsServer, settings: Settings, announced: dict[str, str]) -> None:
        server.answer = reply(body=b"x" * 1001, **announced)
        with pytest.raises(OutboundError, match="larger than 1,000"):
            get(settings, server.url(), max_bytes=1000)

    def test_a_body_without_end_is_left_at_the_limit(self, server: HttpsServer, settings: Settings) -> None:
        sent = 0

        def pour(handler: BaseHTTPRequestHandler) -> None:
            nonlocal sent
            reply(Transfer_Encoding="chunked", Content_Length="0")(handler)
            while True:
                sent += handler.wfile.write(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

        server.answer = pour
        with pytest.raises(OutboundError, match="larger"):
            get(settings, server.url(), max_bytes=100_000)
        assert sent < 50_000_000

    def test_a_body_cut_short(self, server: HttpsServer, settings: Settings) -> None:
        server.answer = reply(body=b"half", Content_Length="8")
        with pytest.raises(OutboundError, match="end"):
            get(settings, server.url())

    @pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200])
    def test_answers_that_are_not_http(self, server: HttpsServer, settings: Settings, answer: bytes) -> None:
        server.answer = lambda handler: handler.wfile.write(answer) and None
        with pytest.raises(OutboundError, match="reached"):
            get(settings, server.url())


class TestRedirects:
    def chain(self, server: HttpsServer, hops: int) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            done = len(server.received) > hops
            (reply(body=b"end") if done else reply(307, Location=f"/{len(server.received)}"))(handler)

        server.answer = answer

    def test_three_are_followed(self, server: HttpsServer, settings: Settings) -> None:
        self.chain(server, MAX_REDIRECTS)
        assert get(settings, server.url()) == b"end"
        assert [received.path for received in server.received] == ["/", "/1", "/2", "/3"]

    def test_a_fourth_is_not(self, server: HttpsServer, settings: Settings) -> None:
        self.chain(server, MAX_REDIRECTS + 1)
        with pytest.raises(OutboundError, match="often"):
            get(settings, server.url())
        assert len(server.received) == MAX_REDIRECTS + 1

    @pytest.mark.parametrize(
        "location",
        [
            "http://localhost/",
            "https://10.0.0.1/",
            "https://[::1]/",
            "https://169.254.169.254/latest/meta-data/",
            "//2130706433/",
            "https://user@localhost/",
            "https://localhost:22/",
            "https://inside.test/",
            "file:///etc/passwd",
            "https://[",
        ],
    )
    def test_each_is_checked(
        self, server: HttpsServer, settings: Settings, resolver: Resolver, location: str
    ) -> None:
        resolver.answers["inside.test"] = [["10.0.0.1"]]
        server.answer = reply(302, Location=location)
        with pytest.raises(OutboundError):
            get(settings, server.url())
        assert len(server.received) == 1

    def test_to_another_host(self, server: HttpsServer, settings: Settings, resolver: Resolver) -> None:
        resolver.answers["mirror.test"] = [["127.0.0.1"]]
        target = server.url("/there", host="mirror.test")

        def answer(handler: BaseHTTPRequestHandler) -> None:
            (reply(body=b"end") if handler.path == "/there" else reply(301, Location=target))(handler)

        server.answer = answer
        assert get(settings, server.url()) == b"end"
        assert server.names == ["localhost", "mirror.test"]


def drip(start: bytes, drop: bytes) -> Answer:
    """Sends `start`, and then `drop` again and again, each well within any timeout between two bytes."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(start)
        while True:
            handler.wfile.write(drop)
            time.sleep(TIME / 8)

    return answer


class TestTime:
    @pytest.fixture(autouse=True)
    def _in_time(self) -> Iterator[None]:
        """Whatever the other side does, which is without end, the call ends."""
        started = time.monotonic()
        yield
        assert time.monotonic() - started < TIME + 20

    @pytest.mark.parametrize(
        ("start", "drop"),
        [
            (b"", b"H"),
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\nX-Long: ", b"x"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ],
    )
    def test_dripping(self, server: HttpsServer, settings: Settings, start: bytes, drop: bytes) -> None:
        server.answer = drip(start, drop)
        with pytest.raises(OutboundError, match="in time"):
            get(settings, server.url(), seconds=TIME)

    def test_redirects_share_the_time(self, server: HttpsServer, settings: Settings) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(TIME * 0.6)
            reply(302, Location="/")(handler)

        server.answer = answer
        with pytest.raises(OutboundError, match="in time"):
            get(settings, server.url(), seconds=TIME)

    def test_silence_before_the_handshake(self, settings: Settings) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"https://localhost:{silent.getsockname()[1]}/"
            with pytest.raises(OutboundError, match="in time"):
                get(settings, url, seconds=TIME)

    def test_a_slow_resolver(self, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
        released = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **values: released.wait() and [])
        try:
            with pytest.raises(OutboundError, match="in time"):
                get(settings, "https://hook.test/", seconds=TIME)
        finally:
            released.set()

    def test_our_own_names_do_not_wait_for_slow_ones(self) -> None:
        run_with_gevent(
            """
            import socket, tempfile
            from pathlib import Path
            from horde.platform.outbound import OutboundError, fetch
            from tests.support import make_settings

            settings = make_settings(Path(tempfile.gettempdir()))

            def call(name):
                try:
                    fetch(settings, f"https://{name}/", max_bytes=1, seconds=0.2)
                except OutboundError as error:
                    return str(error)

            calls = [gevent.spawn(call, f"a{number}.slow.test") for number in range(40)]
            gevent.joinall(calls, timeout=5)
            assert all("in time" in call.value for call in calls)
            with gevent.Timeout(5):
                socket.getaddrinfo("localhost", 443)
            over.set()
            with gevent.Timeout(5):
                assert call("localhost")  # in its turn, behind the slow ones
            # Those that nobody waited for any more were not looked up at all.
            assert len(asked) == 8
            while len(answered) < 8:
                gevent.sleep(0.01)
            gevent.sleep(0.01)
            """,
            before="""
            import threading, _socket
            real, over, asked, answered = _socket.getaddrinfo, threading.Event(), [], []

            def slow(host, *args, **values):
                if "slow.test" in str(host):
                    asked.append(host)
                    over.wait(10)
                    answered.append(host)
                    host = "localhost"
                return real(host, *args, **values)

            _socket.getaddrinfo = slow
            """,
        )

    def test_a_body_that_is_taken_slowly(
        self, settings: Settings, server: HttpsServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sip(handler: BaseHTTPRequestHandler) -> bool:
            while handler.rfile.read(1_000_000):
                time.sleep(TIME / 8)
            return False

        monkeypatch.setattr(BaseHTTPRequestHandler, "parse_request", sip)
        with pytest.raises(OutboundError, match="in time"):
            post_json(settings, server.url(), b" " * 50_000_000, seconds=TIME)


class TestPost:
    def test_the_body_arrives(self, server: HttpsServer, settings: Settings) -> None:
        server.answer = reply(204)
        assert post_json(settings, server.url("/hook?key=1"), b'{"a": 1}', seconds=PATIENCE) == 204
        (received,) = server.received
        assert (received.method, received.path, received.body) == ("POST", "/hook?key=1", b'{"a": 1}')
        assert received.headers["Content-Type"] == "application/json"

    def test_redirects_are_not_followed(self, server: HttpsServer, settings: Settings) -> None:
        server.answer = reply(307, Location="/elsewhere")
        assert post_json(settings, server.url(), b"{}", seconds=PATIENCE) == 307
        assert len(server.received) == 1

    @pytest.mark.parametrize("status", [400, 500])
    def test_refusals_are_statuses(self, server: HttpsServer, settings: Settings, status: int) -> None:
        server.answer = reply(status)
        assert post_json(settings, server.url(), b"{}", seconds=PATIENCE) == status

    def test_private_addresses_are_refused(self, strict: Settings) -> None:
        with pytest.raises(OutboundError, match="public"):
            post_json(strict, "https://10.0.0.1/", b"{}", seconds=PATIENCE)
