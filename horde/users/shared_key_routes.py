"""Routes of shared keys."""

from flask import Response

from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, limited
from horde.platform.runtime import current_platform
from horde.users import shared_keys
from horde.users.shared_key_schemas import SharedKeyDetails, SharedKeyInput

area = Area()


@area.route("/sharedkeys")
class SharedKeys(Resource):
    """The shared keys of an account."""

    @limited("5/minute", key="path")
    @area.operation(
        body=SharedKeyInput, answers={200: SharedKeyDetails}, errors=(400, 401, 403, 404), key="required"
    )
    def put(self) -> Response:
        """Make a key with which others can spend your kudos, within limits."""
        wanted = body(SharedKeyInput, required=False)
        return answer(shared_keys.create_key(current_platform(), api_key(), wanted))


@area.route("/sharedkeys/<string:sharedkey_id>")
class SharedKeyById(Resource):
    """One shared key."""

    @area.operation(answers={200: SharedKeyDetails}, errors=(401, 404))
    def get(self, sharedkey_id: str) -> Response:
        """Show a shared key. Whoever knows it may see it."""
        return answer(shared_keys.key_details(current_platform(), sharedkey_id))

    @area.operation(
        body=SharedKeyInput, answers={200: SharedKeyDetails}, errors=(400, 401, 403, 404), key="required"
    )
    def patch(self, sharedkey_id: str) -> Response:
        """Change a shared key of yours; what the body leaves out stays as it is."""
        wanted = body(SharedKeyInput, required=False)
        return answer(shared_keys.change_key(current_platform(), api_key(), sharedkey_id, wanted))

    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, sharedkey_id: str) -> Response:
        """Delete a shared key of yours. Requests that were made with it stay, and you pay for them."""
        shared_keys.remove_key(current_platform(), api_key(), sharedkey_id)
        return answer(SimpleResponse())
