"""Routes of collections."""

from flask import Response

from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, query
from horde.platform.runtime import current_platform
from horde.styles import collections
from horde.styles.collection_schemas import CollectionQuery, InputModelCollection, ResponseModelCollection
from horde.styles.limits import often
from horde.styles.schemas import StyleModify

area = Area()


@area.route("/collections")
class Collections(Resource):
    """The collections."""

    @often
    @area.operation(query=CollectionQuery, answers={200: [ResponseModelCollection]}, errors=(400,))
    def get(self) -> Response:
        """List public collections, 25 at a time."""
        return answer(collections.list_collections(current_platform(), query(CollectionQuery)))

    @often
    @area.operation(
        body=InputModelCollection, answers={200: StyleModify}, errors=(400, 401, 403), key="required"
    )
    def post(self) -> Response:
        """Make a collection of styles."""
        new = body(InputModelCollection)
        return answer(collections.create_collection(current_platform(), api_key(), new))


@area.route("/collections/<string:collection_id>")
class CollectionById(Resource):
    """One collection."""

    @often
    @area.operation(answers={200: ResponseModelCollection}, errors=(404,))
    def get(self, collection_id: str) -> Response:
        """Show a collection."""
        return answer(collections.collection_details(current_platform(), collection_id))

    @often
    @area.operation(
        body=InputModelCollection, answers={200: StyleModify}, errors=(400, 401, 403, 404), key="required"
    )
    def patch(self, collection_id: str) -> Response:
        """Change a collection of yours; what the body leaves out stays as it is."""
        change = body(InputModelCollection)
        return answer(collections.change_collection(current_platform(), api_key(), collection_id, change))

    @often
    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, collection_id: str) -> Response:
        """Delete a collection of yours; moderators delete any. Its styles stay."""
        collections.remove_collection(current_platform(), api_key(), collection_id)
        return answer(SimpleResponse())


@area.route("/collection_by_name/<path:collection_name>")
class CollectionByName(Resource):
    """A collection by its name."""

    @area.operation(answers={200: ResponseModelCollection}, errors=(404,))
    def get(self, collection_name: str) -> Response:
        """Show the collection of this name, or full name (user#id::collection::name)."""
        return answer(collections.named_collection(current_platform(), collection_name))
