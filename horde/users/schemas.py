"""Wire formats of accounts. Class names are part of the published API."""

from typing import Annotated, Literal

from pydantic import Field

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.platform.http.fields import Output

Uuid = Annotated[str, Field(min_length=36, max_length=36)]


class UserKudosDetails(Output):
    """Where an account's kudos came from and went to."""

    accumulated: float = Field(0, description="Earned by generating, less what own requests cost.")
    gifted: float = Field(0, description="Given to other users (negative).")
    donated: float = Field(0, description="Given to education accounts (negative).")
    admin: float = Field(0, description="Set by administrators.")
    received: float = Field(0, description="Received from other users.")
    recurring: float = Field(0, description="Monthly kudos.")
    awarded: float = Field(0, description="Awards, and rewards for rating images.")
    styled: float = Field(0, description="Rewards for styles that others used.")


class MonthlyKudos(Output):
    """Kudos that an account receives every month."""

    amount: Maybe[int] = Field(None, description="Kudos a month.")
    last_received: Maybe[str] = Field(
        None,
        description="When they were last received.",
        json_schema_extra={"format": "date-time"},
    )


class UsageDetails(Output):
    """Obsolete; see records."""

    megapixelsteps: float | None = Field(None, description="Always null.")
    requests: int | None = Field(None, description="Always null.")


class ContributionsDetails(Output):
    """Obsolete; see records."""

    megapixelsteps: float | None = Field(None, description="Always null.")
    fulfillments: int | None = Field(None, description="Always null.")


class UserThingRecords(Output):
    """Amounts of work."""

    megapixelsteps: float = Field(0, description="Millions of pixels times steps.")
    tokens: int = Field(0, description="Tokens of text.")


class UserAmountRecords(Output):
    """Numbers of times."""

    image: int = Field(0, description="Images.")
    text: int = Field(0, description="Texts.")
    interrogation: int = Field(0, description="Alchemy forms.")


class UserRecords(Output):
    """What an account has asked for and contributed so far."""

    usage: UserThingRecords = Field(default_factory=UserThingRecords, description="Work asked for.")
    contribution: UserThingRecords = Field(
        default_factory=UserThingRecords, description="Work done by the account's workers."
    )
    fulfillment: UserAmountRecords = Field(
        default_factory=UserAmountRecords, description="Jobs delivered by the account's workers."
    )
    request: UserAmountRecords = Field(default_factory=UserAmountRecords, description="Requests made.")
    style: UserAmountRecords = Field(
        default_factory=UserAmountRecords, description="Times that others used the account's styles."
    )


class UserActiveGenerations(Output):
    """Ids of an account's requests that have not expired; a kind without any is left out."""

    text: Maybe[list[str]] = Field(None, description="Text requests.")
    image: Maybe[list[str]] = Field(None, description="Image requests.", examples=[[EXAMPLE_ID]])
    alchemy: Maybe[list[str]] = Field(None, description="Alchemy requests.")


class ResponseModelStylesUser(Output):
    """A style of an account."""

    name: str = Field(description="Its full name.", examples=["somebody#42::style::watercolour"])
    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    type: Literal["image", "text"] = Field(description="What it is for.")


class UserDetails(Output):
    """An account; what the viewer may not see is left out."""

    username: str = Field(description="Name and number.", examples=["somebody#42"])
    id: int = Field(description="The number.", examples=[42])
    kudos: float = Field(description="Kudos to spend.", examples=[120.5])
    evaluating_kudos: Maybe[float] = Field(
        None, description="Earned, and credited once the account is trusted. Moderators see this."
    )
    concurrency: int = Field(description="Most results that may wait in the queue at a time.", examples=[30])
    worker_invited: int = Field(description="Workers that the account may run beyond the usual number.")
    moderator: bool = Field(description="Moderates this server.")
    kudos_details: UserKudosDetails = Field(
        default_factory=UserKudosDetails, description="Where the kudos came from and went to."
    )
    worker_count: int = Field(description="Number of workers, of any kind.")
    worker_ids: Maybe[list[Uuid]] = Field(
        None, description="Ids of the workers; the account's owner decides whether others see them."
    )
    active_generations: Maybe[UserActiveGenerations] = Field(
        None, description="Requests under way. Only the account itself and moderators see this."
    )
    sharedkey_ids: Maybe[list[str]] = Field(
        None, description="Ids of shared keys. Only the account itself and moderators see this."
    )
    styles: list[ResponseModelStylesUser] = Field(default_factory=list, description="Styles.")
    monthly_kudos: Maybe[MonthlyKudos] = Field(None, description="Monthly kudos. Moderators see this.")
    trusted: bool = Field(description="Has earned trust.")
    flagged: bool = Field(description="Is restricted for abuse.")
    vpn: Maybe[bool] = Field(
        None, description="May run workers behind a VPN. Only the account itself and moderators see this."
    )
    service: bool = Field(description="Asks on behalf of others.")
    education: bool = Field(description="Belongs to a place of education.")
    customizer: bool = Field(description="May offer models that the server does not know.")
    special: Maybe[bool] = Field(
        None, description="May send special payloads. Only the account itself and moderators see this."
    )
    suspicious: Maybe[int] = Field(None, description="Reasons for suspicion. Moderators see this.")
    pseudonymous: bool = Field(description="Registered without a login provider.")
    contact: Maybe[str] = Field(
        None, description="How to reach the owner. Only the account itself and moderators see this."
    )
    admin_comment: Maybe[str] = Field(None, description="Moderators' notes, for moderators.")
    account_age: int = Field(description="Seconds since it was made.", examples=[86400])
    usage: UsageDetails = Field(default_factory=UsageDetails, description="Obsolete; see records.")
    contributions: ContributionsDetails = Field(
        default_factory=ContributionsDetails, description="Obsolete; see records."
    )
    records: UserRecords = Field(
        default_factory=UserRecords, description="What it has asked for and contributed."
    )
    proxy_passkey: Maybe[str] = Field(
        None, description="A new passkey, only in the answer to whoever asked for it."
    )
    deleted: bool = Field(description="Is about to be removed.")
