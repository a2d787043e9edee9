"""Wire formats of changing accounts. Class names are part of the published API."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StringConstraints

from horde.generation.schemas import EXAMPLE_DATE, Maybe
from horde.platform.http.fields import Input, Output
from horde.users.rules import one_line

MOST_KUDOS = 10**12
MOST_INTEGER = 2**31 - 1

Trimmed = Annotated[str, StringConstraints(strip_whitespace=True)]


def _one_line(value: Any) -> Any:
    return one_line(value) if isinstance(value, str) else value


OneLine = BeforeValidator(_one_line)
"""Texts are read as `one_line` leaves them; what they are held against stands before this."""
Contact = Annotated[str, StringConstraints(min_length=5, max_length=500), OneLine]


class UsersQuery(Input):
    """Which accounts to list."""

    page: int = Field(1, description="Which 25 of them; those below 1 count as 1.")
    sort: str = Field("kudos", description="kudos: the richest first; age: the oldest first.")


class ModifyUserInput(Input):
    """What to change of an account: all of it, or nothing if anything is refused."""

    kudos: float | None = Field(
        None,
        ge=-MOST_KUDOS,
        le=MOST_KUDOS,
        description="Add so many kudos, or take them away; fractions are dropped. For administrators.",
    )
    monthly_kudos: int | None = Field(
        None,
        ge=-MOST_KUDOS,
        le=MOST_KUDOS,
        description="Add so many kudos to what the account gets every month, and pay them once; negative to "
        "give it less. For administrators.",
    )
    usage_multiplier: float | None = Field(
        None,
        ge=0.1,
        le=10,
        description="How much the account's requests count in its usage statistic; prices stay the same. "
        "For administrators.",
    )
    moderator: bool | None = Field(None, description="Moderates; is trusted too. For administrators.")
    concurrency: int | None = Field(
        None, ge=0, le=500, description="Most results that may wait in the queue at a time. For moderators."
    )
    worker_invited: int | None = Field(
        None,
        ge=0,
        le=MOST_INTEGER,
        description="Workers that the account may run beyond the usual number. For moderators.",
    )
    trusted: bool | None = Field(
        None, description="Is trusted: its workers are paused no longer, it is paid in full. For moderators."
    )
    flagged: bool | None = Field(None, description="Is restricted for abuse. For moderators.")
    customizer: bool | None = Field(
        None, description="May offer models that the server does not know. For moderators."
    )
    vpn: bool | None = Field(None, description="May run workers behind a VPN. For moderators.")
    service: bool | None = Field(None, description="Asks on behalf of others. For moderators.")
    education: bool | None = Field(
        None,
        description="Belongs to a place of education: 200 results may wait for its class, until the role is "
        "taken away. For moderators.",
    )
    special: bool | None = Field(None, description="May send special payloads. For moderators.")
    filtered: bool | None = Field(None, description="Accepted and ignored.")
    reset_suspicion: bool | None = Field(
        None, description="Forget what speaks against the account and its workers. For moderators."
    )
    admin_comment: Trimmed | None = Field(
        None, min_length=5, max_length=500, description="A note for moderators. For moderators."
    )
    public_workers: bool | None = Field(None, description="Let everybody see whose the workers are.")
    username: Trimmed | None = Field(
        None,
        min_length=3,
        max_length=100,
        description="The new name, of at most 30 characters; the number after it stays.",
    )
    contact: Contact | None = Field(None, description="How to reach the owner; moderators see it.")
    generate_proxy_passkey: bool = Field(
        False, description="Make a new passkey for a service account; the one before is void."
    )
    undelete: bool | None = Field(None, description="Keep an account that was going to be deleted.")


class ModifyUser(Output):
    """What was changed of an account, as it is now."""

    new_kudos: Maybe[float] = Field(None, description="Kudos to spend.")
    monthly_kudos: Maybe[int] = Field(None, description="Kudos granted every month.")
    usage_multiplier: Maybe[float] = Field(None, description="How much its requests count as usage.")
    moderator: Maybe[bool] = Field(None, description="Moderates this server.")
    concurrency: Maybe[int] = Field(None, description="Most results that may wait at a time.")
    worker_invited: Maybe[int] = Field(None, description="Workers beyond the usual number.")
    trusted: Maybe[bool] = Field(None, description="Is trusted.")
    flagged: Maybe[bool] = Field(None, description="Is restricted for abuse.")
    customizer: Maybe[bool] = Field(None, description="May offer models that the server does not know.")
    vpn: Maybe[bool] = Field(None, description="May run workers behind a VPN.")
    service: Maybe[bool] = Field(None, description="Asks on behalf of others.")
    education: Maybe[bool] = Field(None, description="Belongs to a place of education.")
    special: Maybe[bool] = Field(None, description="May send special payloads.")
    new_suspicion: Maybe[int] = Field(None, description="Reasons for suspicion left.")
    admin_comment: Maybe[str] = Field(None, description="Moderators' notes.")
    public_workers: Maybe[bool] = Field(None, description="Everybody sees whose the workers are.")
    username: Maybe[str] = Field(None, description="The name, without the number.")
    contact: Maybe[str] = Field(None, description="How to reach the owner.")
    proxy_passkey: Maybe[str] = Field(None, description="The new passkey, which is shown this once only.")
    undeleted: Maybe[bool] = Field(None, description="It is not going to be deleted any more.")


class RoleChangesQuery(Input):
    """Which changes to list."""

    page: int = Field(1, ge=1, le=10_000, description="Which 50 of them.")


class RoleChangeDetails(Output):
    """A role that was granted or taken away."""

    role: str = Field(description="Which role.", examples=["trusted"])
    before: bool = Field(alias="from", description="Whether the account held it until then,")
    after: bool = Field(alias="to", description="and whether it did from then on.")
    changed_by: str | None = Field(
        description="Who did it; null: the server by its rules, or its operator.", examples=["somebody#42"]
    )
    created: str = Field(
        description="When.", examples=[EXAMPLE_DATE], json_schema_extra={"format": "date-time"}
    )
