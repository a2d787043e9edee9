"""Routes for moderators: prompt filters and address timeouts."""

from flask import Response

from horde.moderation import service, timeouts
from horde.moderation.schemas import (
    AddTimeoutIPInput,
    AddWorkerTimeout,
    DeleteTimeoutIPInput,
    FilterDetails,
    FilterPromptInput,
    FilterPromptSuspicion,
    FilterQuery,
    FilterRegex,
    FilterTypeQuery,
    IPTimeout,
    PatchExistingFilter,
    PutNewFilter,
    WorkerTimeoutAdded,
)
from horde.platform.http import Area, Resource, SimpleResponse, answer, api_key, body, query
from horde.platform.runtime import current_platform

area = Area()

REFUSALS = (400, 401, 403)


@area.route("/filters")
class Filters(Resource):
    """The prompt filters."""

    @area.operation(query=FilterQuery, answers={200: [FilterDetails]}, errors=REFUSALS, key="required")
    def get(self) -> Response:
        """List the filters. For moderators."""
        key = api_key()
        wanted = query(FilterQuery)
        found = service.list_filters(
            current_platform(), key, filter_type=wanted.filter_type, contains=wanted.contains
        )
        return answer(found)

    @area.operation(
        body=PutNewFilter,
        answers={200: FilterDetails, 201: FilterDetails},
        errors=REFUSALS,
        key="required",
    )
    def put(self) -> Response:
        """Add a filter, unless there is the same one already. For moderators."""
        new = body(PutNewFilter)
        return answer(service.add_filter(current_platform(), api_key(), new))

    @area.operation(
        body=FilterPromptInput, answers={200: FilterPromptSuspicion}, errors=REFUSALS, key="required"
    )
    def post(self) -> Response:
        """Try the filters on a prompt. For moderators."""
        wanted = body(FilterPromptInput, required=False)
        found = service.try_filters(
            current_platform(), api_key(), wanted.prompt, filter_type=wanted.filter_type
        )
        return answer(FilterPromptSuspicion(suspicion=str(found.score), matches=list(found.matches)))


@area.route("/filters/regex")
class FiltersRegex(Resource):
    """The prompt filters, joined."""

    @area.operation(query=FilterTypeQuery, answers={200: [FilterRegex]}, errors=REFUSALS, key="required")
    def get(self) -> Response:
        """Show one expression for each type of filter in use. For moderators."""
        key = api_key()
        wanted = query(FilterTypeQuery)
        return answer(service.joined_filters(current_platform(), key, filter_type=wanted.filter_type))


@area.route("/filters/<string:filter_id>")
class FilterById(Resource):
    """One prompt filter."""

    # The published document says that this answers a list; it never did.
    @area.operation(answers={200: [FilterDetails]}, errors=(*REFUSALS, 404), key="required")
    def get(self, filter_id: str) -> Response:
        """Show a filter. For moderators."""
        return answer(service.filter_details(current_platform(), api_key(), filter_id))

    @area.operation(
        body=PatchExistingFilter, answers={200: FilterDetails}, errors=(*REFUSALS, 404), key="required"
    )
    def patch(self, filter_id: str) -> Response:
        """Change a filter. For moderators."""
        change = body(PatchExistingFilter)
        return answer(service.change_filter(current_platform(), api_key(), filter_id, change))

    @area.operation(answers={200: SimpleResponse}, errors=(*REFUSALS, 404), key="required")
    def delete(self, filter_id: str) -> Response:
        """Remove a filter. For moderators."""
        service.remove_filter(current_platform(), api_key(), filter_id)
        return answer(SimpleResponse())


@area.route("/operations/ipaddr")
class Timeouts(Resource):
    """Addresses that are kept out."""

    @area.operation(answers={200: [IPTimeout]}, errors=REFUSALS, key="required")
    def get(self) -> Response:
        """List the addresses and blocks that are kept out. For moderators."""
        return answer(timeouts.list_timeouts(current_platform(), api_key()))

    @area.operation(body=AddTimeoutIPInput, answers={200: SimpleResponse}, errors=REFUSALS, key="required")
    def post(self) -> Response:
        """Keep an address or a block out for some hours. For moderators."""
        new = body(AddTimeoutIPInput)
        timeouts.add_timeout(current_platform(), api_key(), new)
        return answer(SimpleResponse())

    @area.operation(body=DeleteTimeoutIPInput, answers={200: SimpleResponse}, errors=REFUSALS, key="required")
    def delete(self) -> Response:
        """Let an address or a block in again. For moderators."""
        ended = body(DeleteTimeoutIPInput)
        timeouts.remove_timeout(current_platform(), api_key(), ended.ipaddr)
        return answer(SimpleResponse())


@area.route("/operations/ipaddr/<string:ipaddr>")
class TimeoutsOfAddress(Resource):
    """What keeps an address out."""

    @area.operation(answers={200: [IPTimeout]}, errors=REFUSALS, key="required")
    def get(self, ipaddr: str) -> Response:
        """List the blocks that keep an address out, and its own timeout. For moderators."""
        return answer(timeouts.timeouts_of(current_platform(), api_key(), ipaddr))


@area.route("/operations/block_worker_ipaddr/<string:worker_id>")
class WorkerTimeout(Resource):
    """The address of a worker."""

    @area.operation(
        body=AddWorkerTimeout, answers={200: WorkerTimeoutAdded}, errors=(*REFUSALS, 404), key="required"
    )
    def put(self, worker_id: str) -> Response:
        """Keep the address out that a worker last called from. For moderators."""
        wanted = body(AddWorkerTimeout)
        affected = timeouts.block_worker(current_platform(), api_key(), worker_id, wanted.days)
        return answer(WorkerTimeoutAdded(affected=affected))

    @area.operation(answers={200: SimpleResponse}, errors=(*REFUSALS, 404), key="required")
    def delete(self, worker_id: str) -> Response:
        """Let the address in again that a worker last called from. For moderators."""
        timeouts.unblock_worker(current_platform(), api_key(), worker_id)
        return answer(SimpleResponse())
