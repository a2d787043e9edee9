"""Routes of teams."""

from flask import Response

from horde.platform.http import Area, Resource, answer, api_key, body, limited
from horde.platform.runtime import current_platform
from horde.workers import teams
from horde.workers.team_schemas import (
    CreateTeamInput,
    DeletedTeam,
    ModifyTeam,
    ModifyTeamInput,
    TeamDetails,
)

area = Area()

LIMIT = "30/minute"


@area.route("/teams")
class Teams(Resource):
    """The teams."""

    @limited(LIMIT, key="path")
    @area.operation(answers={200: [TeamDetails]})
    def get(self) -> Response:
        """List all teams."""
        return answer(teams.list_teams(current_platform()))

    @limited(LIMIT, key="path")
    @area.operation(body=CreateTeamInput, answers={200: ModifyTeam}, errors=(400, 401, 403), key="required")
    def post(self) -> Response:
        """Found a team. For trusted accounts."""
        new = body(CreateTeamInput)
        return answer(teams.create_team(current_platform(), api_key(), new))


@area.route("/teams/<string:team_id>")
class TeamById(Resource):
    """One team. That there is none is told before a missing key is."""

    @limited(LIMIT, key="path")
    @area.operation(answers={200: TeamDetails}, errors=(401, 403, 404), key="optional")
    def get(self, team_id: str) -> Response:
        """Show a team."""
        return answer(teams.team_details(current_platform(), team_id, api_key(required=False)))

    @limited(LIMIT, key="path")
    @area.operation(
        body=ModifyTeamInput, answers={200: ModifyTeam}, errors=(400, 401, 403, 404), key="optional"
    )
    def patch(self, team_id: str) -> Response:
        """Change a team of yours; moderators change any."""
        change, platform = body(ModifyTeamInput), current_platform()
        team_id = teams.find_team(platform, team_id)
        return answer(teams.change_team(platform, api_key(), team_id, change))

    @limited(LIMIT, key="path")
    @area.operation(answers={200: DeletedTeam}, errors=(400, 401, 403, 404), key="optional")
    def delete(self, team_id: str) -> Response:
        """Dissolve a team of yours; moderators dissolve any. Its workers stay."""
        platform = current_platform()
        team_id = teams.find_team(platform, team_id)
        return answer(teams.remove_team(platform, api_key(), team_id))
