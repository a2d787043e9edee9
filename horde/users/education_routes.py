"""Routes of applications for the education role."""

from flask import Response

from horde.platform.http import Area, Resource, answer, api_key, body, limited, query
from horde.platform.runtime import current_platform
from horde.users import education
from horde.users import service as users
from horde.users.education_schemas import (
    EducationApplicationDetails,
    EducationApplicationInput,
    EducationDecisionInput,
    EducationQuery,
)

area = Area()

LIMIT = "60/minute"


@area.route("/users/education")
class EducationApplications(Resource):
    """Places of education that apply for the education role."""

    @limited(LIMIT, key="path")
    @area.operation(
        query=EducationQuery,
        answers={200: [EducationApplicationDetails]},
        errors=(400, 401),
        key="required",
    )
    def get(self) -> Response:
        """List your applications; moderators see everybody's."""
        wanted, platform = query(EducationQuery), current_platform()
        user = users.authenticate(platform, api_key())
        return answer(education.list_applications(platform, user, wanted))

    @limited("5/minute", key="path")
    @area.operation(
        body=EducationApplicationInput,
        answers={201: EducationApplicationDetails},
        errors=(400, 401, 403),
        key="required",
    )
    def post(self) -> Response:
        """Apply for the education role with your account; the moderators decide."""
        wanted, platform = body(EducationApplicationInput), current_platform()
        user = users.authenticate(platform, api_key())
        return answer(education.apply(platform, user, wanted), 201)


@area.route("/users/education/<string:application_id>")
class EducationApplicationById(Resource):
    """One application."""

    @limited(LIMIT, key="path")
    @area.operation(answers={200: EducationApplicationDetails}, errors=(400, 401, 404), key="required")
    def get(self, application_id: str) -> Response:
        """Show an application of yours; moderators see any."""
        platform = current_platform()
        user = users.authenticate(platform, api_key())
        return answer(education.application_details(platform, user, application_id))

    @limited(LIMIT, key="path")
    @area.operation(
        body=EducationDecisionInput,
        answers={200: EducationApplicationDetails},
        errors=(400, 401, 403, 404),
        key="required",
    )
    def patch(self, application_id: str) -> Response:
        """Grant or refuse an application. For moderators."""
        decision, platform = body(EducationDecisionInput), current_platform()
        moderator = users.authenticate(platform, api_key())
        return answer(education.decide(platform, moderator, application_id, decision))
