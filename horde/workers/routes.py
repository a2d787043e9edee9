"""Routes of workers."""

from flask import Response
from pydantic import Field

from horde.platform.http import Area, Input, Resource, answer, query
from horde.platform.runtime import current_platform
from horde.workers import service
from horde.workers.schemas import WorkerDetails

area = Area()


class WorkerQuery(Input):
    """Which workers to list."""

    type: str | None = Field(None, description="Only workers of this type: image, text or interrogation.")
    name: str | None = Field(None, description="Only the worker of this name, whatever its type.")


@area.route("/workers")
class Workers(Resource):
    """The workers that are online."""

    @area.operation(query=WorkerQuery, answers={200: [WorkerDetails]}, key="optional")
    def get(self) -> Response:
        """List the workers that asked for jobs within the last five minutes."""
        wanted = query(WorkerQuery)
        return answer(service.list_workers(current_platform(), kind=wanted.type, name=wanted.name))
