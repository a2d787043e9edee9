"""Routes of the server's own state."""

import threading

from flask import Blueprint, Flask, Response, current_app, g, request

from horde.platform.http import Area, Resource, answer, api_key, body, query, unlimited
from horde.platform.runtime import current_platform
from horde.status import documents, models, news, performance, service, statistics
from horde.status.schemas import (
    ActiveModel,
    ActiveModelQuery,
    DocumentQuery,
    HordeDocument,
    HordeModes,
    HordeModesInput,
    HordePerformance,
    ImgModelStats,
    ModelStatsQuery,
    Newspiece,
    StatsImgTotals,
    StatsTxtTotals,
    TxtModelStats,
)

area = Area()
site = Blueprint("status_site", __name__)
"""What is not part of the API."""


@area.route("/status/heartbeat")
class StatusHeartbeat(Resource):
    """Whether this node works."""

    @unlimited
    @area.operation(answers={200: None}, masked=False)
    def get(self) -> Response:
        """Tell a load balancer whether this node can take calls."""
        # Workers that wait for a job keep nothing busy.
        busy = current_app.extensions["busy_calls"].count - current_app.extensions["horde_wakeups"].waiters
        return answer(service.heartbeat(current_platform(), max(0, busy - 1)))


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


@area.route("/status/models")
class StatusModels(Resource):
    """The models that can be asked for."""

    @area.operation(query=ActiveModelQuery, answers={200: [ActiveModel]}, errors=(400,))
    def get(self) -> Response:
        """List the models that workers serve or somebody waits for."""
        wanted = query(ActiveModelQuery)
        found = models.active_models(
            current_platform(),
            wanted.type,
            min_count=wanted.min_count,
            max_count=wanted.max_count,
            model_state=wanted.model_state,
        )
        return answer(found)


@area.route("/status/models/<path:model_name>")
class StatusModelByName(Resource):
    """One model."""

    @area.operation(answers={200: [ActiveModel]})
    def get(self, model_name: str) -> Response:
        """Show a model, in a list that is empty when nobody knows it. Its name may hold slashes."""
        return answer(models.active_model(current_platform(), model_name))


@area.route("/status/performance")
class StatusPerformance(Resource):
    """What the horde has to do and can do."""

    @area.operation(answers={200: HordePerformance})
    def get(self) -> Response:
        """Show how much waits and how many workers there are."""
        return answer(performance.performance(current_platform()))


@area.route("/status/news")
class StatusNews(Resource):
    """What the operator has to tell."""

    @area.operation(answers={200: [Newspiece]})
    def get(self) -> Response:
        """List the news, the newest first."""
        return answer(news.news(current_platform()))


@area.route("/stats/img/totals")
class ImageTotals(Resource):
    """Images delivered."""

    @area.operation(answers={200: StatsImgTotals})
    def get(self) -> Response:
        """Tell how many images were delivered in the last minute, hour, day and month, and ever."""
        return answer(statistics.image_totals(current_platform()))


@area.route("/stats/img/models")
class ImageModelTotals(Resource):
    """Images delivered by model."""

    @area.operation(query=ModelStatsQuery, answers={200: ImgModelStats}, errors=(400,))
    def get(self) -> Response:
        """Tell how many images each model made in the last day and month, and ever."""
        wanted = query(ModelStatsQuery)
        return answer(statistics.image_models_delivered(current_platform(), wanted.model_state))


@area.route("/stats/text/totals")
class TextTotals(Resource):
    """Texts delivered."""

    @area.operation(answers={200: StatsTxtTotals})
    def get(self) -> Response:
        """Tell how many texts were delivered in the last minute, hour, day and month, and ever."""
        return answer(statistics.text_totals(current_platform()))


@area.route("/stats/text/models")
class TextModelTotals(Resource):
    """Texts delivered by model."""

    @area.operation(answers={200: TxtModelStats})
    def get(self) -> Response:
        """Tell how many texts each model made in the last day and month, and ever."""
        return answer(statistics.text_models_delivered(current_platform()))


@area.route("/documents/terms")
class DocumentTerms(Resource):
    """The terms of service."""

    @area.operation(query=DocumentQuery, answers={200: HordeDocument}, errors=(400,))
    def get(self) -> Response:
        """Show the terms of service."""
        return _document("terms")


@area.route("/documents/privacy")
class DocumentPrivacy(Resource):
    """The privacy policy."""

    @area.operation(query=DocumentQuery, answers={200: HordeDocument}, errors=(400,))
    def get(self) -> Response:
        """Show the privacy policy."""
        return _document("privacy")


@area.route("/documents/sponsors")
class DocumentSponsors(Resource):
    """Who helps this horde."""

    @area.operation(query=DocumentQuery, answers={200: HordeDocument}, errors=(400,))
    def get(self) -> Response:
        """Show who helps this horde."""
        return _document("sponsors")


@site.get("/.well-known/serviceinfo")
def serviceinfo() -> Response:
    """What this service is and where its API begins, for programs that only know the host."""
    return answer(documents.service_info(current_platform().settings, _home()))


def _document(name: documents.Document) -> Response:
    return answer(documents.document(current_platform(), name, query(DocumentQuery).format, _home()))


def _home() -> str:
    """The URL of this server, without a trailing slash."""
    return (current_platform().settings.public_url or request.host_url).rstrip("/")


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
