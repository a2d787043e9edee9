"""Wire formats of the server's own state."""

from typing import Literal

from pydantic import Field

from horde.platform.http.fields import Output


class Heartbeat(Output):
    """Whether this node works. It says nothing of other nodes, so that no two of them fail together."""

    message: Literal["OK", "DOWN", "OVERLOADED"] = Field(
        description="OK, DOWN (no database) or OVERLOADED (calls queue for a thread)."
    )
    version: str = Field(description="Version of the server.", examples=["1.0.0"])
    queue: int = Field(description="Calls that wait for a thread of this process.")
    threads: int = Field(description="Threads of this process.")
    active_count: int = Field(description="Threads that are busy, this call not counted.")
    db_connection: bool = Field(description="The database answers.")
