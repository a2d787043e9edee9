"""Routes of workers."""

from flask import Response

from horde.platform.http import Area, Resource, answer, api_key, body, limited, query
from horde.platform.runtime import current_platform
from horde.workers import details, management
from horde.workers.schemas import (
    DeletedWorker,
    ModifyWorker,
    ModifyWorkerInput,
    WorkerDetails,
    WorkerQuery,
)

area = Area()

LIMIT = "30/minute"


@area.route("/workers")
class Workers(Resource):
    """The workers that are online."""

    @area.operation(query=WorkerQuery, answers={200: [WorkerDetails]}, errors=(400,), key="optional")
    def get(self) -> Response:
        """List the workers that asked for jobs lately. Owners and moderators see more."""
        wanted = query(WorkerQuery)
        found = details.list_workers(
            current_platform(), api_key(required=False), kind=wanted.type, name=wanted.name
        )
        return answer(found)


@area.route("/workers/<string:worker_id>")
class WorkerById(Resource):
    """One worker. That there is none is told before a missing key is."""

    @limited(LIMIT, key="path")
    @area.operation(answers={200: WorkerDetails}, errors=(401, 403, 404), key="optional")
    def get(self, worker_id: str) -> Response:
        """Show a worker, online or not. Its owner and moderators see more."""
        return answer(details.worker_details(current_platform(), worker_id, api_key(required=False)))

    @limited(LIMIT, key="path")
    @area.operation(
        body=ModifyWorkerInput, answers={200: ModifyWorker}, errors=(400, 401, 403, 404), key="required"
    )
    def put(self, worker_id: str) -> Response:
        """Change a worker of yours; moderators change any."""
        change, platform = body(ModifyWorkerInput), current_platform()
        found = management.find_worker(platform, worker_id)
        return answer(management.change_worker(platform, api_key(), found, change))

    @limited(LIMIT, key="path")
    @area.operation(answers={200: DeletedWorker}, errors=(400, 401, 403, 404, 423), key="optional")
    def delete(self, worker_id: str) -> Response:
        """Delete a worker of yours; moderators delete any. Its owner keeps the kudos."""
        platform = current_platform()
        found = management.find_worker(platform, worker_id)
        return answer(management.remove_worker(platform, api_key(), found))


@area.route("/workers/name/<path:worker_name>")
class WorkerByName(Resource):
    """One worker by its name."""

    @area.operation(answers={200: WorkerDetails}, errors=(401, 403, 404), key="optional")
    def get(self, worker_name: str) -> Response:
        """Show the worker of exactly this name, online or not. Its owner and moderators see more."""
        return answer(details.worker_called(current_platform(), worker_name, api_key(required=False)))
