"""Route of rating images."""

from flask import Response

from horde.generation.schemas import GenerationSubmitted
from horde.image import ratings
from horde.image.admission import Sender
from horde.image.rating_schemas import AestheticsPayload
from horde.platform.http import Area, Resource, answer, api_key, body, client_agent, direct_address, limited
from horde.platform.runtime import current_platform

area = Area()


@area.route("/generate/rate/<string:id>")
class GenerateRate(Resource):
    """Ratings of images."""

    @limited("5/minute", key="path")
    @area.operation(
        body=AestheticsPayload,
        answers={200: GenerationSubmitted},
        errors=(400, 401, 403, 404),
        key="required",
    )
    def post(self, id: str) -> Response:
        """Say how you like the images of a finished request of yours, once; it may earn some kudos."""
        payload = body(AestheticsPayload)
        sender = Sender(api_key(), direct_address(), client_agent())
        return answer({"reward": float(ratings.rate(current_platform(), sender, id, payload))})
