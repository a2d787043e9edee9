"""Routes of the server's own state."""

import threading

from flask import Flask, Response, current_app, g

from horde.platform.http import Area, Resource, answer, unlimited
from horde.platform.runtime import current_platform
from horde.status import service

area = Area()


@area.route("/status/heartbeat")
class StatusHeartbeat(Resource):
    """Whether this node works."""

    @unlimited
    @area.operation(answers={200: None}, masked=False)
    def get(self) -> Response:
        """Tell a load balancer whether this node can take calls."""
        busy = current_app.extensions["busy_calls"]
        return answer(service.heartbeat(current_platform(), max(0, busy.count - 1)))


class BusyCalls:
    """Counts the calls that this process is answering."""

    def __init__(self, app: Flask) -> None:
        self.count = 0
        self._lock = threading.Lock()
        app.extensions["busy_calls"] = self
        app.before_request(self._begin)
        app.teardown_request(self._end)

    def _begin(self) -> None:
        g.counted = True
        with self._lock:
            self.count += 1

    def _end(self, _error: BaseException | None) -> None:
        if g.pop("counted", False):
            with self._lock:
                self.count -= 1
