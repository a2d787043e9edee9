"""Wire formats of the server's own state."""

from typing import Literal

from pydantic import Field

from horde.generation.schemas import Maybe
from horde.platform.http.fields import Input, Output


class Heartbeat(Output):
    """Whether this node works. It says nothing of other nodes, so that no two of them fail together."""

    message: Literal["OK", "DOWN", "OVERLOADED"] = Field(
        description="OK, DOWN (no database) or OVERLOADED (calls wait for others)."
    )
    version: str = Field(description="Version of the server.", examples=["1.0.0"])
    queue: int = Field(description="Calls that wait for others of this process to end.")
    threads: int = Field(description="Calls that this process works on at a time.")
    active_count: int = Field(description="Calls that it is answering, this one not counted.")
    db_connection: bool = Field(description="The database answers.")


class HordeModes(Output):
    """Which modes are on."""

    maintenance_mode: Maybe[bool] = Field(None, description="New requests are refused.")
    invite_only_mode: Maybe[bool] = Field(None, description="New workers need an invitation.")
    raid_mode: Maybe[bool] = Field(
        None, description="Calls from doubtful addresses are refused. Only moderators see this."
    )


class HordeModesInput(Input):
    """Which modes to switch on or off; the others stay as they are."""

    maintenance_mode: bool | None = Field(None, description="Refuse new requests. For administrators.")
    invite_only_mode: bool | None = Field(None, description="Refuse new workers that are not invited.")
    raid_mode: bool | None = Field(None, description="Refuse calls from doubtful addresses.")
