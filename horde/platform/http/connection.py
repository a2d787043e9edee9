"""The connection of the client that sent the present request."""

import select
import socket
from contextlib import suppress
from typing import Any

from flask import request
from gevent import monkey

# Asking whether something can be read now, without waiting, needs no help of gevent's.
_poll: Any = monkey.get_original("select", "poll")


class Connection:
    """A client's connection, as far as gunicorn lets us know about it."""

    def __init__(self) -> None:
        self._socket: Any = request.environ.get("gunicorn.socket")

    def hung_up(self) -> bool:
        """Whether the client is not there any more; one that has sent more than the request is."""
        if self._socket is None:
            return False
        try:
            poll = _poll()
            poll.register(self._socket.fileno(), select.POLLIN)
            return bool(poll.poll(0)) and self._socket.recv(1, socket.MSG_PEEK) == b""
        except ValueError:
            # Closed on our side, or encrypted, where nobody can look ahead.
            return bool(self._socket.fileno() < 0)
        except OSError:
            return True

    def take_no_more(self) -> None:
        """Let the connection end with the answer to this request, though it was to be kept open."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RD)
