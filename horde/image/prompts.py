"""What becomes of a prompt before its request is queued."""

from collections.abc import Mapping
from dataclasses import dataclass

from horde.image.schemas import GenerationInputStable
from horde.model_reference.schemas import ImageModel
from horde.moderation import service as moderation
from horde.moderation import timeouts
from horde.moderation.filters import Suspicion
from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform
from horde.users.rules import Role, UserFacts


@dataclass(frozen=True, slots=True)
class Author:
    """Who answers for a prompt."""

    user: UserFacts
    """Whoever calls, who need not be the one who pays."""
    address: str
    said: str
    """The part of the prompt that is theirs; the rest is from somebody else's style."""
    proxy: str | None = None
    """The address of the service that passed the request on."""


def cleared_prompt(
    platform: Platform,
    payer: UserFacts,
    author: Author,
    request: GenerationInputStable,
    models: Mapping[str, ImageModel],
) -> str:
    """The prompt to queue: as it was sent, or rewritten where the filters ask for that.

    Raises `CorruptPrompt` (400) for one that may not be served; whoever sends such keeps their address out
    for some minutes, unless they only ask for the price: front ends do that while somebody types.
    """
    found = moderation.scan(platform, request.prompt, request.models)
    unsafe_model = any(name in models and models[name].nsfw for name in request.models)
    strict = payer.has(Role.FLAGGED) or (found.youth and unsafe_model)
    if not (found.suspicious or strict):
        return request.prompt
    may_rewrite = strict or request.replacement_filter
    rewritten = (
        moderation.rewrite(platform, request.prompt, found, request.models, replace_words=strict)
        if may_rewrite
        else None
    )
    if rewritten is not None:
        return rewritten
    timeouts.report_corrupt_prompt(
        platform,
        author.user,
        author.address,
        request.prompt,
        proxy=author.proxy,
        punish=not request.dry_run and _deserved(platform, found, author, request),
    )
    raise BadRequest(
        "This prompt breaks the rules of this horde and cannot be served. Please word it differently.",
        "CorruptPrompt",
    )


def _deserved(platform: Platform, found: Suspicion, author: Author, request: GenerationInputStable) -> bool:
    """Whether a refused prompt breaks the rules by what its author said, and not by their style alone."""
    if author.said != request.prompt:
        found = moderation.scan(platform, author.said, request.models)
    return found.suspicious and not found.undecided
