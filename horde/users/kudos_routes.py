"""Routes of moving kudos and of looking back at it."""

from flask import Response

from horde.platform.http import (
    ONCE,
    Area,
    Resource,
    answer,
    api_key,
    body,
    idempotency_key,
    limited,
    query,
)
from horde.platform.runtime import current_platform
from horde.users import history, transfers
from horde.users.kudos_schemas import (
    KudosAwarded,
    KudosAwardInput,
    KudosTransferInput,
    KudosTransferred,
    LedgerPage,
    LedgerQuery,
)

area = Area()


@area.route("/kudos/transfer")
class KudosTransfer(Resource):
    """Gifts."""

    @limited("1/second", key="key")
    @limited("90/hour", relaxed="600/hour", key="key")
    @area.operation(
        body=KudosTransferInput,
        answers={200: KudosTransferred},
        errors=(400, 401),
        key="required",
        headers=ONCE,
    )
    def post(self) -> Response:
        """Give kudos of yours to another account, or to its owner by a shared key."""
        wanted = body(KudosTransferInput, required=False)
        given = transfers.transfer(current_platform(), api_key(), wanted, idempotency_key())
        return answer({"transferred": float(given)})


@area.route("/kudos/award")
class KudosAward(Resource):
    """Awards."""

    @area.operation(
        body=KudosAwardInput,
        answers={200: KudosAwarded},
        errors=(400, 401, 403),
        key="required",
        headers=ONCE,
    )
    def post(self) -> Response:
        """Credit an account with kudos. For administrators."""
        wanted = body(KudosAwardInput, required=False)
        awarded = transfers.award(current_platform(), api_key(), wanted, idempotency_key())
        return answer({"awarded": float(awarded)})


@area.route("/users/<string:user_id>/ledger")
class UserLedger(Resource):
    """An account's history."""

    @limited("60/minute", key="path")
    @area.operation(query=LedgerQuery, answers={200: LedgerPage}, errors=(400, 401, 403, 404), key="required")
    def get(self, user_id: str) -> Response:
        """Show what moved the kudos of your account, newest first; moderators see everybody's."""
        wanted = query(LedgerQuery)
        return answer(history.history(current_platform(), api_key(), user_id, wanted))
