"""Routes of messages to workers."""

from flask import Response

from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, query
from horde.platform.runtime import current_platform
from horde.workers import messages
from horde.workers.message_schemas import MessageQuery, ResponseModelMessage, WorkerMessage

area = Area()


@area.route("/workers/messages")
class Messages(Resource):
    """Messages to workers."""

    @area.operation(
        query=MessageQuery, answers={200: [WorkerMessage]}, errors=(400, 401, 403, 404), key="required"
    )
    def get(self) -> Response:
        """List your messages, those to your workers and those to all; moderators see every message."""
        key = api_key()
        return answer(messages.list_messages(current_platform(), key, query(MessageQuery)))

    @area.operation(
        body=ResponseModelMessage, answers={200: WorkerMessage}, errors=(400, 401, 403, 404), key="required"
    )
    def post(self) -> Response:
        """Send a message to one of your workers; moderators send to any, and to all at once."""
        new = body(ResponseModelMessage)
        return answer(messages.send(current_platform(), api_key(), new))


@area.route("/workers/messages/<string:message_id>")
class MessageById(Resource):
    """One message."""

    @area.operation(answers={200: WorkerMessage}, errors=(404,))
    def get(self, message_id: str) -> Response:
        """Show a message. Whoever knows its id may see it."""
        return answer(messages.message_details(current_platform(), message_id))

    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, message_id: str) -> Response:
        """Delete a message that you wrote; moderators delete any."""
        messages.remove_message(current_platform(), api_key(), message_id)
        return answer(SimpleResponse())
