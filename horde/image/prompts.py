"""What becomes of a prompt before its request is queued."""

from collections.abc import Mapping

from horde.image.schemas import GenerationInputStable
from horde.model_reference.schemas import ImageModel
from horde.moderation import service as moderation
from horde.moderation import timeouts
from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform
from horde.users.rules import Role, UserFacts


def cleared_prompt(
    platform: Platform,
    user: UserFacts,
    address: str,
    request: GenerationInputStable,
    models: Mapping[str, ImageModel],
    *,
    proxy: str | None = None,
) -> str:
    """The prompt to queue: as it was sent, or rewritten where the filters ask for that.

    Raises `CorruptPrompt` (400) for one that may not be served; whoever sends such keeps their address out
    for some minutes, unless they only ask for the price: front ends do that while somebody types. `proxy` is
    the address of the service that passed the request on.
    """
    found = moderation.scan(platform, request.prompt, request.models)
    unsafe_model = any(name in models and models[name].nsfw for name in request.models)
    strict = user.has(Role.FLAGGED) or (found.youth and unsafe_model)
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
        user,
        address,
        request.prompt,
        proxy=proxy,
        punish=found.suspicious and not found.undecided and not request.dry_run,
    )
    raise BadRequest(
        "This prompt breaks the rules of this horde and cannot be served. Please word it differently.",
        "CorruptPrompt",
    )
