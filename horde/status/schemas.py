"""Wire formats of the server's own state."""

from typing import Literal

from pydantic import Field

from horde.platform.http.fields import Output


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
