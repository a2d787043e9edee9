"""Routes of image styles."""

from flask import Response

from horde.image.style_schemas import ModelStyleInputStable, ModelStylePatchStable, StyleStable
from horde.image.styling import IMAGE
from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, query
from horde.platform.runtime import current_platform
from horde.styles import service
from horde.styles.limits import often, seldom
from horde.styles.schemas import StyleModify, StyleQuery

area = Area()


@area.route("/styles/image")
class ImageStyles(Resource):
    """The image styles."""

    @often
    @area.operation(query=StyleQuery, answers={200: [StyleStable]}, errors=(400,))
    def get(self) -> Response:
        """List public image styles, 25 at a time."""
        return answer(service.list_styles(current_platform(), IMAGE, query(StyleQuery)))

    @seldom
    @area.operation(
        body=ModelStyleInputStable, answers={200: StyleModify}, errors=(400, 401, 403), key="required"
    )
    def post(self) -> Response:
        """Make an image style. For trusted accounts and customizers."""
        new = body(ModelStyleInputStable)
        return answer(service.create_style(current_platform(), IMAGE, api_key(), new))


@area.route("/styles/image/<string:style_id>")
class ImageStyle(Resource):
    """One image style."""

    @often
    @area.operation(answers={200: StyleStable}, errors=(400, 404), key="optional")
    def get(self, style_id: str) -> Response:
        """Show an image style."""
        return answer(service.style_details(current_platform(), IMAGE, style_id, api_key(required=False)))

    @seldom
    @area.operation(
        body=ModelStylePatchStable, answers={200: StyleModify}, errors=(400, 401, 403, 404), key="required"
    )
    def patch(self, style_id: str) -> Response:
        """Change an image style of yours; what the body leaves out stays as it is."""
        change = body(ModelStylePatchStable)
        return answer(service.change_style(current_platform(), IMAGE, api_key(), style_id, change))

    @often
    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, style_id: str) -> Response:
        """Delete an image style of yours; moderators delete any."""
        service.remove_style(current_platform(), IMAGE, api_key(), style_id)
        return answer(SimpleResponse())


@area.route("/styles/image_by_name/<path:style_name>")
class ImageStyleByName(Resource):
    """An image style by its name."""

    @area.operation(answers={200: StyleStable}, errors=(400, 404), key="optional")
    def get(self, style_name: str) -> Response:
        """Show the image style of this name, or full name (user#id::style::name)."""
        return answer(service.named_style(current_platform(), IMAGE, style_name, api_key(required=False)))
