"""Wire formats of filters and address timeouts. Class names are part of the published API."""

from typing import Annotated

from pydantic import AfterValidator, Field

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.moderation.filters import MOST_CHARACTERS, USED_TYPES
from horde.platform.http.fields import Input, IntOrText, Output, SimpleResponse

EXAMPLE_REGEX = r"\bexample\b"
MOST_REGEX_CHARACTERS = 10_000
MOST_DESCRIPTION_CHARACTERS = 1000

FilterType = Annotated[int, Field(ge=10, le=29, description="10 and 11: subjects; 20: contexts.")]
Regex = Annotated[
    str,
    Field(
        max_length=MOST_REGEX_CHARACTERS, description="The expression looked for.", examples=[EXAMPLE_REGEX]
    ),
]
Description = Annotated[
    str, Field(max_length=MOST_DESCRIPTION_CHARACTERS, description="What it is for, for moderators.")
]
Replacement = Annotated[
    str, Field(max_length=255, description="Stands for what a filter of type 10 finds, in rewritten prompts.")
]


class PutNewFilter(Input):
    """A filter to add."""

    regex: Regex
    filter_type: FilterType
    description: Description = ""
    replacement: Replacement = ""


class PatchExistingFilter(Input):
    """What to change of a filter. An empty description or replacement removes it."""

    regex: Regex = ""
    filter_type: FilterType | None = None
    description: Description | None = None
    replacement: Replacement | None = None


class FilterDetails(Output):
    """A filter."""

    id: str = Field(description="Its number.", examples=["12"])
    regex: str = Field(description="The expression looked for.", examples=[EXAMPLE_REGEX])
    filter_type: FilterType
    description: Maybe[str] = Field(None, description="What it is for.")
    replacement: str = Field("", description="Stands for what it finds, in rewritten prompts.")
    user: str = Field(description="The moderator who changed it last.", examples=["somebody#42"])


class FilterRegex(Output):
    """All filters of a type, joined."""

    filter_type: FilterType
    regex: str = Field(description="Matches what any of them matches; empty when there are none.")


def _used(filter_type: int) -> int:
    if filter_type not in USED_TYPES:
        raise ValueError(f"must be one of: {', '.join(map(str, USED_TYPES))}")
    return filter_type


class FilterPromptInput(Input):
    """A prompt to try the filters on."""

    prompt: str = Field(max_length=MOST_CHARACTERS, description="The prompt; what follows ### is ignored.")
    filter_type: Annotated[IntOrText, AfterValidator(_used)] | None = Field(
        None, description="Try only filters of this type: 10, 11 or 20."
    )


class FilterPromptSuspicion(Output):
    """What the filters make of a prompt."""

    suspicion: str = Field(
        "0", description="0 to 2; a request with this prompt is not served as it is from 2 on."
    )
    matches: list[str] = Field(default_factory=list, description="What they found.")


Address = Annotated[
    str,
    Field(
        min_length=2,
        max_length=43,
        description="An IP address, or a block of them such as 192.0.2.0/24.",
        examples=["192.0.2.0/24"],
        # The published bounds, which would refuse ::1 and the longest IPv6 blocks.
        json_schema_extra={"minLength": 7, "maxLength": 40},
    ),
]


class AddTimeoutIPInput(Input):
    """An address or block to keep out."""

    ipaddr: Address
    hours: int = Field(ge=1, le=24 * 30, description="For how long.", examples=[24])


class DeleteTimeoutIPInput(Input):
    """An address or block to let in again."""

    ipaddr: Address


class AddWorkerTimeout(Input):
    """How long to keep a worker's address out."""

    days: int = Field(ge=1, le=30, description="For how long.", examples=[3])


class AffectedWorker(Output):
    """A worker that cannot call while an address is kept out."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    name: str = Field(description="Its name.")
    owner: str = Field(description="Its owner.", examples=["somebody#42"])
    trusted: bool = Field(description="Its owner is trusted.")


class WorkerTimeoutAdded(SimpleResponse):
    """A worker's address is kept out."""

    affected: list[AffectedWorker] = Field(
        default_factory=list,
        description="All workers that last called from there, whoever they belong to, with the one meant.",
    )


class IPTimeout(Output):
    """An address or block that is kept out."""

    ipaddr: Address
    seconds: int = Field(description="For how long from now.", examples=[3600])


class FilterQuery(Input):
    """Which filters to list."""

    filter_type: int | None = Field(None, description="Only filters of this type.")
    contains: str | None = Field(
        None, description="Only filters with this text in their expression or description."
    )


class FilterTypeQuery(Input):
    """Which type to show."""

    filter_type: int | None = Field(None, description="Only this type: 10, 11 or 20.")
