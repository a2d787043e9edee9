"""Calling addresses that strangers name: pictures to fetch, webhooks to call.

Whoever names an address must not reach through this server what they cannot reach themselves. So only
https to public addresses is spoken; a name is resolved once, every address behind it is checked, and the
connection goes to a checked address while the certificate is still checked for the name. Each call is
bounded in bytes and in total time, however slowly the other side drips.
"""

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote, urljoin, urlsplit

from gevent import monkey
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from horde.platform.offload import NativeThreads
from horde.settings import Settings

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

MAX_REDIRECTS = 3
HEADERS = {"User-Agent": "AI-Horde", "Accept": "*/*", "Connection": "close"}

CHUNK = 64 * 1024
MAX_ADDRESSES = 4
REDIRECTS = (301, 302, 303, 307, 308)

# Names that strangers give may take minutes; ours, of the database and the store, must not wait for them.
_resolvers = NativeThreads(8)

_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*")
# Resolvers read these as IPv4 addresses: 2130706433, 0x7f000001, 0177.0.0.1, 127.1
_NUMBER = re.compile(r"(.*\.)?(\d+|0x[0-9a-f]*)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_UNQUOTED = "%/?:@!$&'()*+,;=~[]"

_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")


class OutboundError(Exception):
    """The call was refused or failed; the text says why, in a clause that can follow a colon."""


class OutboundTimeout(OutboundError):
    """The call was not over in its time."""


class OutboundTooLarge(OutboundError):
    """The answer is larger than it may be."""


@dataclass(frozen=True, slots=True)
class _Target:
    host: str
    port: int
    path: str


def check_url(settings: Settings, url: str) -> None:
    """Raise `OutboundError` if `url` can never be called, as far as its text alone tells.

    It must be https, without a user name or password, on port 443 or any from 1024 up, and its host a name
    or a plain public address. A name is not resolved here: what is behind it is checked when it is called.
    """
    host = _parse(url).host
    if (address := _literal(host)) is not None:
        _check_address(settings, address)


def fetch(settings: Settings, url: str, *, max_bytes: int, seconds: float) -> bytes:
    """What GET `url` answers with status 200, at most `max_bytes` of it, within `seconds` in all.

    Up to `MAX_REDIRECTS` redirects are followed, each checked like the first address. Raises `OutboundError`.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        with _exchange(settings, "GET", url, deadline) as response:
            location = response.getheader("Location")
            if response.status in REDIRECTS and location:
                url = urljoin(url, location)
                continue
            if response.status != 200:
                raise OutboundError(f"the server answered with status {response.status}")
            return _read(response, max_bytes)
    raise OutboundError("the address redirects too often")


def ask(settings: Settings, url: str, *, max_bytes: int, seconds: float) -> tuple[int, bytes]:
    """What GET `url` answers, within `seconds` in all: its status and the first `max_bytes` of its content.

    Redirects are not followed. Raises `OutboundError`.
    """
    with _exchange(settings, "GET", url, time.monotonic() + seconds) as response:
        return response.status, response.read(max_bytes)


def fetch_with_secret(settings: Settings, url: str, secret: str, *, max_bytes: int, seconds: float) -> bytes:
    """What GET `url` answers with status 200 to whoever has `secret`, which is sent as a bearer token.

    Redirects are not followed: the secret is for the one address. Raises `OutboundError`, also for answers
    of more than `max_bytes` or after `seconds` in all.
    """
    headers = {"Authorization": f"Bearer {secret}"}
    with _exchange(settings, "GET", url, time.monotonic() + seconds, headers=headers) as response:
        if response.status != 200:
            raise OutboundError(f"the server answered with status {response.status}")
        return _read(response, max_bytes)


def post_json(settings: Settings, url: str, body: bytes, *, seconds: float) -> int:
    """POST `body`, which is JSON already, to `url`; returns the answer's status, within `seconds` in all.

    Redirects are not followed and the answer's content is not read. Raises `OutboundError`.
    """
    with _exchange(settings, "POST", url, time.monotonic() + seconds, body) as response:
        return response.status


def ask_json(
    settings: Settings, url: str, body: bytes, *, max_bytes: int, seconds: float
) -> tuple[int, bytes]:
    """POST `body` as `post_json` does; returns the answer's status and, from 400 up, its content too.

    The content of other answers is not read, and that of more than `max_bytes` or cut short is left out.
    Raises `OutboundError`, and `OutboundTimeout` after `seconds` in all.
    """
    with _exchange(settings, "POST", url, time.monotonic() + seconds, body) as response:
        if response.status < 400:
            return response.status, b""
        try:
            return response.status, _read(response, max_bytes)
        except OutboundError:
            return response.status, b""


@contextmanager
def _exchange(
    settings: Settings,
    method: str,
    url: str,
    deadline: float,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[http.client.HTTPResponse]:
    """Send one request and give its answer, headers read and content not; all failures as OutboundError."""
    target = _parse(url)
    tls = _tls(settings.outbound_ca_file)
    headers = {**HEADERS, **headers}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        with closing(_connect(settings, tls, target, deadline)) as sock:
            connection = http.client.HTTPSConnection(target.host, target.port, context=tls)
            connection.sock = sock
            connection.request(method, target.path, body, headers)
            with connection.getresponse() as response:
                yield response
    except TimeoutError as error:
        raise OutboundTimeout("the server did not answer completely in time") from error
    except ssl.SSLCertVerificationError as error:
        raise OutboundError("the server's certificate is not valid") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OutboundError("the server could not be reached or broke off") from error


def _read(response: http.client.HTTPResponse, max_bytes: int) -> bytes:
    data = bytearray()
    while len(data) <= max_bytes:
        chunk = response.read(min(CHUNK, max_bytes + 1 - len(data)))
        if not chunk:
            if response.length:
                raise OutboundError("the answer ended before its announced end")
            return bytes(data)
        data += chunk
    raise OutboundTooLarge(f"the answer is larger than {max_bytes:,} bytes")


def _parse(url: str) -> _Target:
    if url[:8].lower() != "https://" or _CONTROL.search(url):
        raise OutboundError("the address must start with https:// and hold no control characters")
    try:
        parts = urlsplit(url)
        port = 443 if parts.port is None else parts.port
        host = _ascii_host(parts.hostname or "")
        path = quote(parts.path or "/", safe=_UNQUOTED)
        query = quote(parts.query, safe=_UNQUOTED)
    except ValueError as error:
        raise OutboundError("the address is malformed") from error
    if "@" in parts.netloc:
        raise OutboundError("the address must not hold a user name or password")
    if port != 443 and port < 1024:
        raise OutboundError("the port must be 443, or 1024 and above")
    return _Target(host, port, f"{path}?{query}" if query else path)


def _ascii_host(host: str) -> str:
    """`host` as resolvers and certificates write it. Raises ValueError unless it is a name or an address."""
    if not host.isascii():
        host = host.encode("idna").decode().lower()
    host = host.removesuffix(".")
    if _literal(host) is None and (not _NAME.fullmatch(host) or _NUMBER.fullmatch(host)):
        raise ValueError(f"not a host: {host}")
    return host


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return None if "%" in host else ip_address(host)
    except ValueError:
        return None


def _check_address(settings: Settings, address: IPv4Address | IPv6Address) -> None:
    """Raise OutboundError unless packets to `address` end at a public host or in an allowed network."""
    address = _destination(address)
    if any(address in network for network in settings.outbound_networks):
        return
    unicast = address in _GLOBAL_UNICAST if address.version == 6 else not address.is_multicast
    if not unicast or not address.is_global:
        raise OutboundError("the address does not lead to a public host")


def _destination(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The IPv4 address inside an IPv6 one that gateways translate, or the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or address


def _connect(settings: Settings, tls: ssl.SSLContext, target: _Target, deadline: float) -> "_DeadlineSocket":
    """A connection to one of the target's addresses, once all of them and its certificate are checked."""
    found = _resolve(target, deadline)
    for _, address in found:
        _check_address(settings, ip_address(str(address[0]).partition("%")[0]))
    raw = _connect_any(found[:MAX_ADDRESSES], deadline)
    raw.settimeout(_left(deadline))
    sock = cast(_DeadlineSocket, tls.wrap_socket(raw, server_hostname=target.host))
    sock.deadline = deadline
    return sock


_SocketAddress = tuple[int, tuple[Any, ...]]


def _resolve(target: _Target, deadline: float) -> list[_SocketAddress]:
    """All socket addresses of the target.

    A resolver knows no deadline, and who runs a name's server decides how long it takes. So it is asked in
    a thread of its own that may outlive this call.
    """
    answer: Future[list[_SocketAddress]] = Future()

    def ask_resolver() -> list[_SocketAddress]:
        _left(deadline)  # nobody waits for it any more if others took all of its time
        getaddrinfo = monkey.get_original("socket", "getaddrinfo")
        found = getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
        return [(family, address) for family, _, _, _, address in found]

    def look_up() -> None:
        try:
            answer.set_result(_resolvers.run(ask_resolver))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=look_up, name="resolver", daemon=True).start()
    return answer.result(timeout=_left(deadline))


def _connect_any(addresses: list[_SocketAddress], deadline: float) -> socket.socket:
    """A connection to the first address that answers; none may use up the time of those after it."""
    failure = OSError("no address")
    for place, (family, address) in enumerate(addresses):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(_left(deadline) / (len(addresses) - place))
            sock.connect(address)
        except OSError as error:
            sock.close()
            failure = error
        else:
            return sock
    raise failure


def _left(deadline: float) -> float:
    """Seconds until `deadline`. Raises TimeoutError when there are none."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _DeadlineSocket(ssl.SSLSocket):
    """A TLS socket on which all reading and writing together ends at `deadline`.

    A plain timeout starts anew with each byte that arrives.
    """

    deadline: float

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(buffer, nbytes, flags)

    def send(self, data: "ReadableBuffer", flags: int = 0) -> int:
        self.settimeout(_left(self.deadline))
        return super().send(data, flags)


@lru_cache
def _tls(ca_file: Path | None) -> ssl.SSLContext:
    """Checks certificates against the public authorities, and those in `ca_file`."""
    context = ssl.create_default_context(cafile=DEFAULT_CA_BUNDLE_PATH)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    context.set_alpn_protocols(["http/1.1"])
    context.sslsocket_class = _DeadlineSocket
    return context
