"""Routes of accounts."""

from flask import Response

from horde.platform.errors import Unauthorized
from horde.platform.http import Area, Resource, answer, api_key, limited
from horde.platform.runtime import current_platform
from horde.users import service
from horde.users.schemas import UserDetails

area = Area()


@area.route("/find_user")
class FindUser(Resource):
    """The caller's account."""

    @area.operation(answers={200: UserDetails}, errors=(400, 404), key="optional")
    def get(self) -> Response:
        """Show the account that the API key belongs to."""
        key = api_key(required=False)
        if key is None:
            raise Unauthorized("Send your API key in the header 'apikey'.", "InvalidAPIKey")
        return answer(service.find_user(current_platform(), key))


@area.route("/users/<string:user_id>")
class UserById(Resource):
    """One account."""

    @limited("60/minute", key="path")
    @area.operation(answers={200: UserDetails}, errors=(401, 404), key="optional")
    def get(self, user_id: str) -> Response:
        """Show an account; its owner and moderators see more."""
        return answer(service.user_details(current_platform(), user_id, api_key(required=False)))
