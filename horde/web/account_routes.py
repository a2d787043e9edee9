"""An account as its owner sees it, giving kudos away, and applying as a place of education."""

from flask import Response, request
from pydantic import ValidationError

from horde.platform.errors import BadRequest, HordeError, NotFound
from horde.platform.http import limited
from horde.platform.http.requests import problems
from horde.platform.runtime import Platform, current_platform
from horde.users import education, history, transfers
from horde.users import service as users
from horde.users.education_schemas import EducationApplicationInput, EducationDecisionInput, EducationQuery
from horde.users.kudos_schemas import KudosTransferInput, LedgerQuery
from horde.users.rules import Role, UserFacts
from horde.users.schemas import UserDetails
from horde.web import forms, sessions
from horde.web.plots import short
from horde.web.site import page, see, site
from horde.workers.details import worker_details
from horde.workers.schemas import WorkerDetails

LOOKING = "60/minute"
SENDING = "10/minute;90/hour"
WORKERS_SHOWN = 50
MOVEMENTS_SHOWN = 25
MOST_DIGITS = 15

REASONS = {
    "activation": "a request was taken",
    "generation": "a result was made",
    "uptime": "a worker was there",
    "rating": "images were rated",
    "transfer": "a gift",
    "award": "an award",
    "monthly": "monthly kudos",
    "admin": "an administrator's doing",
    "promotion": "the account became trusted",
    "floor": "a balance too low was made good",
    "reconciliation": "the books were put right",
}
"""What the kinds of events in the books are called; others by their own name."""


def _log_in(return_to: str) -> Response:
    return see(f"/login?next={return_to}")


@site.get("/account")
@limited(LOOKING)
def account() -> Response:
    """Kudos, workers and history of whoever is logged in."""
    platform, user = current_platform(), sessions.user()
    if user is None:
        return _log_in("account")
    details = users.own_details(platform, user)
    return page(
        "account",
        user=details,
        login=sessions.current().login,
        workers=_workers(platform, details),
        reasons=REASONS,
        short=short,
        history=history.movements(platform, user, _part()),
    )


def _part() -> LedgerQuery:
    before = request.args.get("before")
    try:
        if before is not None:
            return LedgerQuery(before=before, limit=MOVEMENTS_SHOWN)
    except ValidationError:
        pass  # nobody types this in; whoever does sees the beginning
    return LedgerQuery(limit=MOVEMENTS_SHOWN)


def _workers(platform: Platform, details: UserDetails) -> list[WorkerDetails]:
    """The account's workers, as anybody may see them."""
    found = []
    for worker_id in (details.worker_ids or [])[:WORKERS_SHOWN]:
        try:
            found.append(worker_details(platform, worker_id, None))
        except NotFound:  # it was removed just now
            continue
    return found


@site.get("/transfer")
@limited(LOOKING)
def transfer_form() -> Response:
    """Ask whom to give how many kudos."""
    return _transfer_form()


@site.post("/transfer")
@limited(SENDING, key="path")
def transfer() -> Response:
    """Give kudos away: those of whoever is logged in, or has filled in an API key."""
    platform, user = current_platform(), sessions.user()
    username, amount = forms.field("username", 255), forms.field("amount", 40)
    try:
        sender = user or users.authenticate(platform, forms.field("src_api_key", 200))
        if not (amount.isascii() and amount.isdigit() and len(amount) <= MOST_DIGITS):
            raise BadRequest("The amount is a whole number, in digits only.")
        wanted = KudosTransferInput(username=username, amount=int(amount))
        given = transfers.give(platform, sender, wanted, f"form {forms.number()}")
    except HordeError as error:
        return _transfer_form(error, username, amount)
    return _transfer_form(done=f"{given} kudos are now with {username}.")


def _transfer_form(
    error: HordeError | None = None, username: str = "", amount: str = "", done: str | None = None
) -> Response:
    user = sessions.user()
    return page(
        "transfer",
        error.status if error else 200,
        error=error.message if error else None,
        done=done,
        user=users.own_details(current_platform(), user) if user else None,
        username=username,
        amount=amount,
    )


@site.get("/education")
@limited(LOOKING)
def education_page() -> Response:
    """Let a place of education apply, show what became of it, and let moderators decide."""
    user = sessions.user()
    return _log_in("education") if user is None else _education_page(user)


@site.post("/education")
@limited("5/minute", key="path")
def apply_for_education() -> Response:
    """Leave an application for the moderators."""
    platform, user = current_platform(), sessions.user()
    if user is None:
        return _log_in("education")
    sent = {name: forms.field(name, 5000) for name in EducationApplicationInput.model_fields}
    try:
        wanted = EducationApplicationInput(**{name: text for name, text in sent.items() if text})
        education.apply(platform, user, wanted)
    except ValidationError as error:
        told = "; ".join(f"{name} {text}" for name, text in problems(error).items())
        return _education_page(user, BadRequest(f"Please look at this again: {told}."), sent)
    except HordeError as error:
        return _education_page(user, error, sent)
    return _education_page(user, done="The moderators have your application. You see here what they decide.")


@site.post("/education/<string:application_id>")
@limited(LOOKING)
def decide_education(application_id: str) -> Response:
    """Grant or refuse an application. For moderators."""
    user = sessions.user()
    if user is None:
        return _log_in("education")
    chosen = forms.field("decision")
    if chosen not in ("grant", "refuse"):
        raise BadRequest("Choose whether to grant or to refuse the application. Nothing was changed.")
    decision = EducationDecisionInput(granted=chosen == "grant", reason=forms.field("reason", 1000))
    decided = education.decide(current_platform(), user, application_id, decision)
    return _education_page(user, done=f"The application of {decided.institution} is {decided.state}.")


def _education_page(
    user: UserFacts,
    error: HordeError | None = None,
    sent: dict[str, str] | None = None,
    done: str | None = None,
) -> Response:
    platform, moderator = current_platform(), user.has(Role.MODERATOR)
    query = _applications(moderator)
    shown = education.list_applications(platform, user, query)
    waits = any(application.state == "open" for application in shown)
    return page(
        "education",
        error.status if error else 200,
        error=error.message if error else None,
        done=done,
        sent=sent or {},
        user=user,
        moderator=moderator,
        educator=user.has(Role.EDUCATION),
        may_apply=moderator or not (waits or user.has(Role.EDUCATION)),
        applications=shown,
        query=query,
        more=len(shown) == education.PAGE,
    )


def _applications(moderator: bool) -> EducationQuery:
    """Which applications are shown: to moderators those that wait for them, unless they want all."""
    wanted = {} if not moderator or request.args.get("show") == "all" else {"state": "open"}
    given = {"page": request.args["page"]} if "page" in request.args else {}
    try:
        return EducationQuery.model_validate_strings(wanted | given)
    except ValidationError:  # nobody types this in
        return EducationQuery.model_validate_strings(wanted)
