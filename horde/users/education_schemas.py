"""Wire formats of applications for the education role."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from horde.generation.schemas import EXAMPLE_DATE, EXAMPLE_ID, Maybe
from horde.platform.http.fields import Input, Output
from horde.users.management_schemas import Contact, OneLine


def _web(address: str) -> str:
    if not address.lower().startswith(("https://", "http://")):
        raise ValueError("must be the address of a page, and start with https:// or http://")
    return address


Trimmed = Annotated[str, StringConstraints(strip_whitespace=True)]
State = Literal["open", "granted", "refused"]


class EducationApplicationInput(Input):
    """A place of education that asks for the education role."""

    institution: Annotated[str, StringConstraints(min_length=3, max_length=200), OneLine] = Field(
        description="Its name.", examples=["Harbour Street School"]
    )
    website: Annotated[str, StringConstraints(max_length=500), OneLine, AfterValidator(_web)] | None = Field(
        None, description="Where moderators can read about it.", examples=["https://school.example"]
    )
    contact: Contact = Field(
        description="How moderators can reach you there.", examples=["teacher@school.example"]
    )
    purpose: Trimmed = Field(
        min_length=10, max_length=2000, description="Who is going to use the account, and what for."
    )


class EducationDecisionInput(Input):
    """What a moderator makes of an application."""

    granted: bool = Field(description="Whether the account gets the education role.")
    reason: Trimmed = Field("", max_length=1000, description="What the applicant is told about it.")


class EducationQuery(Input):
    """Which applications to list."""

    state: State | None = Field(None, description="Only those in this state.")
    page: int = Field(1, ge=1, le=10_000, description="Which 50 of them.")


class EducationApplicationDetails(Output):
    """An application for the education role."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    user: str = Field(description="The account that is to get the role.", examples=["somebody#42"])
    institution: str = Field(description="The place of education.")
    website: Maybe[str] = Field(None, description="Where to read about it.")
    contact: str = Field(description="How to reach the applicant there.")
    purpose: str = Field(description="Who is going to use the account, and what for.")
    state: State = Field(description="Whether it has been decided, and how.")
    created: str = Field(
        description="When it was sent.", examples=[EXAMPLE_DATE], json_schema_extra={"format": "date-time"}
    )
    decided: Maybe[str] = Field(
        None, description="When it was decided.", json_schema_extra={"format": "date-time"}
    )
    decided_by: Maybe[str] = Field(None, description="Who decided it. Moderators see this.")
    reason: Maybe[str] = Field(None, description="What the moderators say about their decision.")
