"""Routes of text styles."""

from flask import Response

from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, query
from horde.platform.runtime import current_platform
from horde.styles import service
from horde.styles.limits import often, seldom
from horde.styles.schemas import StyleModify, StyleQuery
from horde.styles.text_kind import TEXT
from horde.styles.text_schemas import ModelStyleInputKobold, ModelStylePatchKobold, StyleKobold

area = Area()


@area.route("/styles/text")
class TextStyles(Resource):
    """The text styles."""

    @often
    @area.operation(query=StyleQuery, answers={200: [StyleKobold]}, errors=(400,))
    def get(self) -> Response:
        """List public text styles, 25 at a time."""
        return answer(service.list_styles(current_platform(), TEXT, query(StyleQuery)))

    @seldom
    @area.operation(
        body=ModelStyleInputKobold, answers={200: StyleModify}, errors=(400, 401, 403), key="required"
    )
    def post(self) -> Response:
        """Make a text style. For trusted accounts and customizers."""
        new = body(ModelStyleInputKobold)
        return answer(service.create_style(current_platform(), TEXT, api_key(), new))


@area.route("/styles/text/<string:style_id>")
class TextStyle(Resource):
    """One text style."""

    @often
    @area.operation(answers={200: StyleKobold}, errors=(400, 404), key="optional")
    def get(self, style_id: str) -> Response:
        """Show a text style."""
        return answer(service.style_details(current_platform(), TEXT, style_id, api_key(required=False)))

    @seldom
    @area.operation(
        body=ModelStylePatchKobold, answers={200: StyleModify}, errors=(400, 401, 403, 404), key="required"
    )
    def patch(self, style_id: str) -> Response:
        """Change a text style of yours; what the body leaves out stays as it is."""
        change = body(ModelStylePatchKobold)
        return answer(service.change_style(current_platform(), TEXT, api_key(), style_id, change))

    @often
    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, style_id: str) -> Response:
        """Delete a text style of yours; moderators delete any."""
        service.remove_style(current_platform(), TEXT, api_key(), style_id)
        return answer(SimpleResponse())


@area.route("/styles/text_by_name/<path:style_name>")
class TextStyleByName(Resource):
    """A text style by its name."""

    @area.operation(answers={200: StyleKobold}, errors=(400, 404), key="optional")
    def get(self, style_name: str) -> Response:
        """Show the text style of this name, or full name (user#id::style::name)."""
        return answer(service.named_style(current_platform(), TEXT, style_name, api_key(required=False)))
