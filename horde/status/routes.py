"""Routes of the server's own state."""

import threading

from flask import Flask, Response, current_app, g

from horde.platform.http import Area, Resource, answer, api_key, body, unlimited
from horde.platform.runtime import current_platform
from horde.status import service
from horde.status.schemas import HordeModes, HordeModesInput

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


@area.route("/status/modes")
class StatusModes(Resource):
    """Modes of the whole horde."""

    @area.operation(answers={200: HordeModes}, errors=(401, 403), key="optional", agent=False)
    def get(self) -> Response:
        """Show which modes are on; moderators, who send their key, see all of them."""
        return answer(service.show_modes(current_platform(), api_key(required=False)))

    @area.operation(
        body=HordeModesInput,
        answers={200: HordeModes},
        errors=(400, 401, 403),
        key="required",
        agent=False,
    )
    def put(self) -> Response:
        """Switch modes. For moderators, and maintenance for administrators."""
        change = body(HordeModesInput, required=False)
        return answer(service.switch_modes(current_platform(), api_key(), change))


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
