"""Routes of examples of image styles."""

from flask import Response

from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body
from horde.platform.runtime import current_platform
from horde.styles import examples
from horde.styles.example_schemas import InputStyleExamplePost
from horde.styles.limits import often
from horde.styles.schemas import StyleModify

area = Area()

ERRORS = (400, 401, 403, 404)


@area.route("/styles/image/<string:style_id>/example")
class StyleExamples(Resource):
    """The examples of a style."""

    @often
    @area.operation(body=InputStyleExamplePost, answers={200: StyleModify}, errors=ERRORS, key="required")
    def post(self, style_id: str) -> Response:
        """Show another picture with a style of yours; moderators do so with any."""
        new = body(InputStyleExamplePost)
        return answer(examples.add_example(current_platform(), api_key(), style_id, new))


@area.route("/styles/image/<string:style_id>/example/<string:example_id>")
class StyleExampleById(Resource):
    """One example."""

    @area.operation(body=InputStyleExamplePost, answers={200: StyleModify}, errors=ERRORS, key="required")
    def patch(self, style_id: str, example_id: str) -> Response:
        """Change an example; what the body leaves out stays as it is."""
        change = body(InputStyleExamplePost)
        return answer(examples.change_example(current_platform(), api_key(), style_id, example_id, change))

    @area.operation(answers={200: SimpleResponse}, errors=ERRORS, key="required")
    def delete(self, style_id: str, example_id: str) -> Response:
        """Delete an example."""
        examples.remove_example(current_platform(), api_key(), style_id, example_id)
        return answer(SimpleResponse())
