"""Whether a request is taken at all: every check that needs neither kudos nor pictures, in order.

The order is part of the API, as the first broken rule decides the answer (`docs/image-requests.md`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from uuid import UUID

from horde.generation import queue
from horde.image import rules
from horde.image.plans import KIND
from horde.image.prompts import Author, cleared_prompt
from horde.image.schemas import GenerationInputStable
from horde.image.styling import IMAGE, with_content
from horde.model_reference.service import image_models
from horde.moderation import ip_safety, modes, timeouts
from horde.platform import outbound
from horde.platform.errors import BadRequest, HordeError, NotFound, TooManyRequests
from horde.platform.http import relax
from horde.platform.ids import parse_id
from horde.platform.outbound import OutboundError
from horde.platform.runtime import Platform
from horde.styles.using import Chosen, choose
from horde.users import service as users
from horde.users import shared_keys
from horde.users.rules import ANONYMOUS_KEY, Role, UserFacts
from horde.users.shared_keys import SharedKeyFacts
from horde.workers import service as workers


@dataclass(frozen=True, slots=True)
class Sender:
    """Where a call comes from."""

    api_key: str
    address: str
    client_agent: str
    proxy: str | None = None
    """Address of the service that passes the call on for somebody else."""


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that breaks no rule, as it will be served."""

    request: GenerationInputStable
    """With the prompt cleared, and with what the account's role imposes."""
    user: UserFacts
    """Who pays."""
    key: SharedKeyFacts | None
    """The shared key that it was sent with, or that belongs to its style."""
    priority: Decimal
    """Kudos with which it enters the queue."""
    wanted: list[UUID]
    """Workers that it names."""
    unsafe_ip: bool
    style: Chosen | None = None
    """The style that it is made with."""

    @property
    def foreign_style(self) -> bool:
        """Whether somebody else gets something for the style."""
        return self.style is not None and self.style.rewards(self.user.id)

    @property
    def key_limits(self) -> SharedKeyFacts | None:
        """The shared key whose limits for a single image hold; a style's key has none for its style."""
        lent = self.style is not None and self.style.key is not None and self.key == self.style.key
        return None if lent else self.key


def admit(platform: Platform, sender: Sender, request: GenerationInputStable) -> Admitted:
    """Hold a request against the rules, up to those about kudos and pictures.

    Raises what `docs/image-requests.md` lists for the first rule that it breaks. A dry run is not held
    against what depends on the moment (how many images wait already).
    """
    style: Chosen | None = None
    said = request.prompt
    if request.style is not None:
        style = choose(platform, request.style, IMAGE.name)
        request = with_content(request, style.content)
    modes.require_open(platform)
    _check_webhook(platform, request)
    user, key, priority = _payer(platform, sender, request)
    caller = user
    rules.check_sender(request, user)
    if sender.proxy is None and (user.trusted or user.has(Role.EDUCATION) or user.has(Role.SERVICE)):
        relax(platform, sender.address)
    if style is not None and style.key is not None and rules.may_borrow(user):
        # From here on the style's owner makes the request; whoever calls has been checked before.
        timeouts.check_timeout(platform, sender.address)
        user, key = users.user_facts(platform, style.key.user_id), style.key
        priority = rules.priority(user)
    if user.has(Role.EDUCATION):
        request = request.model_copy(update=rules.EDUCATION)
    wanted = _wanted_workers(platform, request)
    rules.check_batching(request, user)
    with concurrency_first(platform, user, request):
        timeouts.check_timeout(platform, sender.address)
        models = image_models(platform).models
        if style is not None and style.owner_id == caller.id:
            said = request.prompt
        author = Author(caller, sender.address, said, sender.proxy)
        prompt = cleared_prompt(platform, user, author, request, models)
        request = request.model_copy(update={"prompt": prompt})
        case = rules.case_of(request, user, models)
        rules.check_parameters(case)
        safe = ip_safety.check_raid(platform, caller, sender.address)
        rules.check_combinations(case)
        rules.check_agent(sender.client_agent)
    return Admitted(request, user, key, priority, wanted, unsafe_ip=not safe, style=style)


def _check_webhook(platform: Platform, request: GenerationInputStable) -> None:
    if request.webhook is None:
        return
    try:
        outbound.check_url(platform.settings, request.webhook)
    except OutboundError as error:
        raise BadRequest(f"The webhook cannot be called: {error}.") from error


def _payer(
    platform: Platform, sender: Sender, request: GenerationInputStable
) -> tuple[UserFacts, SharedKeyFacts | None, Decimal]:
    """Who pays, through which shared key, and with what priority the request enters the queue."""
    caller = shared_keys.identify(platform, sender.api_key)
    if caller.key is None:
        return caller.user, None, rules.priority(caller.user)
    # An educator's pupils would be anonymous then, and free of what holds for the school.
    anonymous_served = platform.settings.anonymous_access and not caller.user.has(Role.EDUCATION)
    if caller.key.empty and request.allow_downgrade and anonymous_served:
        return users.authenticate(platform, ANONYMOUS_KEY), None, rules.DOWNGRADED_PRIORITY
    shared_keys.check_usable(caller.key)
    return caller.user, caller.key, rules.priority(caller.user)


def _wanted_workers(platform: Platform, request: GenerationInputStable) -> list[UUID]:
    ids = {name: parse_id(name) for name in request.workers}
    known = workers.existing(platform, [i for i in ids.values() if i]) if ids else set()
    for name, worker_id in ids.items():
        if worker_id not in known:
            raise NotFound(f"There is no worker with id {name[:60]}.", "WorkerNotFound")
    return list(dict.fromkeys(i for i in ids.values() if i))[: rules.MOST_WORKERS]


@contextmanager
def concurrency_first(platform: Platform, user: UserFacts, request: GenerationInputStable) -> Iterator[None]:
    """Let whoever has too much waiting hear of that, rather than of the rule that is broken inside.

    Queueing holds everybody to the limit, so that counting before would be a statement too many for nearly
    all requests.
    """
    try:
        yield
    except HordeError:
        if not request.dry_run:
            check_concurrency(platform, user, request)
        raise


def check_concurrency(platform: Platform, user: UserFacts, request: GenerationInputStable) -> None:
    """Raise `TooManyPrompts` (429) if too much waits already, as far as can be told before it is queued."""
    with platform.read() as db:
        waiting = queue.waiting(db, user.id, KIND, rivals(user, request))
    if waiting + request.params.n > user.concurrency:
        raise too_many(user, waiting)


def rivals(user: UserFacts, request: GenerationInputStable) -> list[str] | None:
    """The models whose waiting requests count against the limit; None: all."""
    return request.models if user.anonymous and request.models else None


def too_many(user: UserFacts, waiting: int) -> TooManyRequests:
    """The refusal of a request when `waiting` images of its sender wait already."""
    return TooManyRequests(
        f"{waiting} of your images are waiting already, and your account may have {user.concurrency} "
        "in the queue at once. Wait until some are taken, then ask again.",
        "TooManyPrompts",
    )
