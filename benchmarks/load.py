"""Many clients at once, cheap enough to share the machine with the server that they measure.

One thread serves all sockets; requests are joined from ready bytes and answers are read just far enough
to judge them. A client has one connection as a requester and one as a worker, both kept open.
"""

import itertools
import random
import selectors
import socket
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.lifecycle import Answer, Board, Call, Requester, Script, Worker, WrongAnswer, lifecycle

ANSWER_SECONDS = 30.0


@dataclass(slots=True)
class Run:
    """What one run has shown; durations are seconds."""

    clients: int
    lifecycles: int
    seconds: float = 0.0
    own_cpu: float = 0.0
    """Used by this process, not by the server."""
    latencies: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def per_second(self) -> float:
        return self.lifecycles / self.seconds


class Connection:
    """A kept-open connection that has one call at a time under way."""

    def __init__(self, host: str, port: int, client: Any) -> None:
        self.client = client
        self.endpoint = ""
        self.sent = 0.0
        self._address = host, port
        self._host = f"{host}:{port}".encode()
        self.open()

    def open(self) -> None:
        """Connect, anew if the server has hung up."""
        self.socket = socket.create_connection(self._address, timeout=ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def send(self, call: Call) -> None:
        head = b"%s /api/v2/generate/%s HTTP/1.1\r\nHost: %s\r\napikey: %s\r\nX-Forwarded-For: %s\r\n" % (
            b"GET" if call.body is None else b"POST",
            *(call.path.encode(), self._host, call.api_key.encode(), call.address.encode()),
        )
        if call.body is None:
            data = head + b"\r\n"
        else:
            kind = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(call.body)
            data = head + kind + call.body
        self.endpoint = call.endpoint
        self.sent = time.perf_counter()
        self.socket.sendall(data)

    def receive(self) -> Answer | None:
        """The answer, or None while part of it is still to come. Raises `WrongAnswer` when cut off."""
        received = self.socket.recv(65536)
        if not received:
            raise WrongAnswer(f"The server closed the connection during {self.endpoint}.")
        self._buffer += received
        head, mark, body = self._buffer.partition(b"\r\n\r\n")
        if not mark:
            return None
        length = int(head.partition(b"Content-Length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return None
        self._buffer = b""
        return Answer(int(head[9:12]), body)


class _Client:
    """A requester's and a worker's connection, and the lifecycle that they are in."""

    def __init__(self, host: str, port: int) -> None:
        self.connections = (Connection(host, port, self), Connection(host, port, self))
        self.script: Script | None = None


class Load:
    """Up to `clients` clients. In each lifecycle the next requester asks and the next worker serves.

    They take turns because nobody may ask more than twice or work more than 60 times a second.
    """

    def __init__(
        self,
        host: str,
        port: int,
        clients: int,
        requesters: Sequence[Requester],
        workers: Sequence[Worker],
    ) -> None:
        self._requesters, self._workers = requesters, workers
        self._numbers = itertools.count(1)
        self._random = random.Random(1)
        self._board = Board()
        self._waiting: dict[int, _Client] = {}
        self._clients = [_Client(host, port) for _ in range(clients)]
        self._selector = selectors.DefaultSelector()
        for client in self._clients:
            for connection in client.connections:
                self._selector.register(connection.socket, selectors.EVENT_READ, connection)

    def run(self, clients: int, lifecycles: int) -> Run:
        """Complete so many lifecycles with that many clients at a time.

        Raises `WrongAnswer` as soon as one answer is not as it should be.
        """
        run = Run(clients, lifecycles)
        self._left = lifecycles
        started, cpu = time.perf_counter(), time.process_time()
        busy = sum(self._advance(client, None) for client in self._clients[:clients])
        while busy:
            ready = self._selector.select(ANSWER_SECONDS)
            if not ready:
                raise WrongAnswer(f"The server did not answer within {ANSWER_SECONDS:.0f} seconds.")
            for key, _ in ready:
                connection: Connection = key.data
                answer = connection.receive()
                if answer is not None:
                    run.latencies[connection.endpoint].append(time.perf_counter() - connection.sent)
                    busy -= not self._advance(connection.client, answer)
            busy -= self._resume_waiting()
        run.seconds, run.own_cpu = time.perf_counter() - started, time.process_time() - cpu
        return run

    def close(self) -> None:
        """Close all connections."""
        self._selector.close()
        for client in self._clients:
            for connection in client.connections:
                connection.socket.close()

    def _resume_waiting(self) -> int:
        """Let clients go on whose request was delivered; returns how many of them were at their end."""
        ready = [number for number in self._waiting if number in self._board.delivered]
        return sum(not self._advance(self._waiting.pop(number), None) for number in ready)

    def _advance(self, client: _Client, answer: Answer | None) -> bool:
        """Take a client to its next call; False when there is nothing left for it to do."""
        while True:
            if client.script is None:
                if not self._left:
                    return False
                self._left -= 1
                client.script, answer = self._begin(), None
            try:
                step = next(client.script) if answer is None else client.script.send(answer)
            except StopIteration:
                client.script = None
                continue
            if isinstance(step, Call):
                client.connections[step.worker].send(step)
            else:
                self._waiting[step] = client
            return True

    def _begin(self) -> Script:
        number = next(self._numbers)
        requester = self._requesters[number % len(self._requesters)]
        worker = self._workers[number % len(self._workers)]
        address = "10.{}.{}.{}".format(*self._random.randbytes(3))
        return lifecycle(number, requester, address, worker, self._board)
