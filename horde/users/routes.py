"""Routes of accounts."""

from flask import Response

from horde.platform.errors import Unauthorized
from horde.platform.http import (
    ONCE,
    Area,
    Resource,
    SimpleResponse,
    answer,
    api_key,
    body,
    idempotency_key,
    limited,
    query,
)
from horde.platform.runtime import current_platform
from horde.users import deletion, management, service
from horde.users.management_schemas import (
    ModifyUser,
    ModifyUserInput,
    RoleChangeDetails,
    RoleChangesQuery,
    UsersQuery,
)
from horde.users.schemas import UserDetails

area = Area()

LIMIT = "60/minute"


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


@area.route("/users")
class Users(Resource):
    """All accounts."""

    # A list is answered; the published document has always named what is in it.
    @area.operation(query=UsersQuery, answers={200: UserDetails}, errors=(400,))
    def get(self) -> Response:
        """List accounts, 25 at a time, the richest or the oldest first."""
        wanted = query(UsersQuery)
        return answer(service.list_users(current_platform(), page=wanted.page, sort=wanted.sort))


@area.route("/users/<string:user_id>")
class UserById(Resource):
    """One account."""

    @limited(LIMIT, key="path")
    @area.operation(answers={200: UserDetails}, errors=(401, 404), key="optional")
    def get(self, user_id: str) -> Response:
        """Show an account; its owner and moderators see more."""
        return answer(service.user_details(current_platform(), user_id, api_key(required=False)))

    @limited(LIMIT, key="path")
    @area.operation(
        body=ModifyUserInput,
        answers={200: ModifyUser},
        errors=(400, 401, 403, 404),
        key="required",
        headers=ONCE,
    )
    def put(self, user_id: str) -> Response:
        """Change your account. Moderators change any, and roles; administrators change kudos too."""
        change, platform = body(ModifyUserInput), current_platform()
        return answer(management.change_user(platform, api_key(), user_id, change, idempotency_key()))

    @limited(LIMIT, key="path")
    @area.operation(answers={200: SimpleResponse}, errors=(400, 401, 403, 404), key="required")
    def delete(self, user_id: str) -> Response:
        """Delete your account: mark it, which can be undone, or 30 days later wipe it for good."""
        deletion.delete_user(current_platform(), api_key(), user_id)
        return answer(SimpleResponse())


@area.route("/users/<string:user_id>/role_changes")
class RoleChanges(Resource):
    """Who changed the roles of an account."""

    @limited(LIMIT, key="path")
    @area.operation(
        query=RoleChangesQuery,
        answers={200: [RoleChangeDetails]},
        errors=(400, 401, 403, 404),
        key="required",
    )
    def get(self, user_id: str) -> Response:
        """List who granted and took away which role, and when, the latest first. For moderators."""
        wanted, key = query(RoleChangesQuery), api_key()
        return answer(management.role_changes(current_platform(), key, user_id, wanted.page))
