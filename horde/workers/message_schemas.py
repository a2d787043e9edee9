"""Wire formats of messages to workers. Class names are part of the published API."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema

from horde.generation.schemas import EXAMPLE_DATE, EXAMPLE_ID, Maybe, ResponseModelMessagePop
from horde.platform.http.fields import Input


class WorkerMessage(ResponseModelMessagePop):
    """A message to one worker, or to all of them."""

    worker_id: Maybe[str] = Field(None, description="Whom it is for; left out if for every worker.")
    user_id: Maybe[str] = Field(None, description="Who wrote it.", examples=["42"])
    created: Maybe[str] = Field(None, description="When it was written.", examples=[EXAMPLE_DATE])
    # Published without a type: generated clients know it as the number of hours that its author gives.
    expiry: Annotated[str, WithJsonSchema({})] = Field(
        description="Until when it is shown.", examples=[EXAMPLE_DATE]
    )


class ResponseModelMessage(Input):
    """A message to send. Workers show it to whoever runs them until it expires."""

    message: str = Field(min_length=1, max_length=10240, description="What it says.")
    worker_id: str | None = Field(
        None,
        min_length=36,
        max_length=36,
        description="Whom it is for; without it, every worker. Only moderators write to workers of others.",
        examples=[EXAMPLE_ID],
    )
    origin: str = Field(
        "AI Horde Moderators",
        min_length=1,
        max_length=255,
        description="Who says it. Only moderators choose this; of others it is the number of their account.",
    )
    expiry: int = Field(12, ge=1, le=720, description="Hours until it expires.")


class MessageQuery(Input):
    """Which messages to list."""

    user_id: str | None = Field(
        None,
        pattern=r"^[0-9]{1,18}$",
        description="Only messages that this account wrote, and those to every worker. Without it, "
        "moderators see all, and others what they wrote and what their workers are told.",
    )
    worker_id: str | None = Field(None, description="Only messages to this worker.")
    validity: Literal["active", "expired", "all"] = Field("active", description="Expired ones or not.")
    page: int = Field(1, ge=1, le=1_000_000, description="Which fifty, the newest first.")
