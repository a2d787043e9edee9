"""Routes of image generation."""

from flask import Response, current_app

from horde.generation.schemas import GenerationSubmitted, RequestAsync, RequestStatusCheck
from horde.image import jobs, service, submissions, tracking
from horde.image.admission import Sender
from horde.image.schemas import (
    GenerationInputStable,
    GenerationPayloadStable,
    PopInputStable,
    RequestStatusStable,
    SubmitInputStable,
)
from horde.platform.http import (
    Area,
    Connection,
    Resource,
    answer,
    api_key,
    body,
    client_agent,
    direct_address,
    limited,
    proxy_address,
    user_address,
)
from horde.platform.runtime import current_platform

area = Area()

MOST_WAITING = 2000
"""Pops that wait in one process: half of the connections that it takes, which are for others too."""


@area.route("/generate/async")
class GenerateAsync(Resource):
    """Asking for images."""

    @limited("90/minute;2/second", relaxed="300/minute;10/second", key="path")
    @limited("2/second", relaxed="60/second", key="key")
    @area.operation(
        body=GenerationInputStable,
        answers={202: RequestAsync},
        errors=(400, 401, 403, 429, 503),
        key="required",
    )
    def post(self) -> Response:
        """Ask for images; poll check with the id until it is done, then fetch them from status.

        With dry_run nothing is queued, and the answer (200) holds the kudos that it would cost.
        """
        request = body(GenerationInputStable)
        sender = Sender(api_key(), user_address(), client_agent(), proxy_address())
        if request.dry_run:
            return answer(service.quote(current_platform(), sender, request))
        return answer(service.submit_request(current_platform(), sender, request), 202)


@area.route("/generate/check/<string:id>")
class GenerateCheck(Resource):
    """A request's progress."""

    @limited("10/second", key="path")
    @area.operation(answers={200: RequestStatusCheck}, errors=(403, 404))
    def get(self, id: str) -> Response:
        """Show how far a request has got, without its images."""
        return answer(tracking.check(current_platform(), id, direct_address(), client_agent()))


@area.route("/generate/status/<string:id>")
class GenerateStatus(Resource):
    """A request's progress and images."""

    @limited("10/minute", key="path")
    @area.operation(answers={200: RequestStatusStable}, errors=(404,))
    def get(self, id: str) -> Response:
        """Show how far a request has got, with the images so far."""
        return answer(tracking.status(current_platform(), id))

    @limited("10/minute", key="path")
    @area.operation(answers={200: RequestStatusStable}, errors=(401, 403, 404), key="optional")
    def delete(self, id: str) -> Response:
        """Cancel a request: nothing more is handed out, images under way are finished and paid for."""
        return answer(tracking.cancel(current_platform(), id, api_key(required=False)))


@area.route("/generate/pop")
class GeneratePop(Resource):
    """Jobs for image workers."""

    @limited("60/second", key="worker")
    @limited("600/second", key="address")
    @area.operation(
        body=PopInputStable,
        answers={200: GenerationPayloadStable},
        errors=(400, 401, 403),
        key="required",
        agent=False,
    )
    def post(self) -> Response:
        """Ask for jobs that this worker can do; with wait the answer may take that long.

        When very many wait already, the answer comes at once.
        """
        offer = body(PopInputStable)
        wakeups, connection = current_app.extensions["horde_wakeups"], Connection()
        waiting = wakeups if wakeups.waiters < MOST_WAITING else None
        found = jobs.pop(current_platform(), api_key(), direct_address(), offer, waiting, connection.hung_up)
        if offer.wait and wakeups.ending:
            connection.take_no_more()
        return answer(found)


@area.route("/generate/submit")
class GenerateSubmit(Resource):
    """Results of image workers."""

    @limited("60/second", key="worker")
    @limited("600/second", key="address")
    @area.operation(
        body=SubmitInputStable,
        answers={200: GenerationSubmitted},
        errors=(400, 401, 403, 404),
        key="required",
        agent=False,
    )
    def post(self) -> Response:
        """Hand in the result of a job, or give the job back."""
        result = body(SubmitInputStable)
        return answer({"reward": submissions.submit(current_platform(), api_key(), result)})
