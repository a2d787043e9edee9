"""Wire formats of teams. Class names are part of the published API."""

from pydantic import Field

from horde.generation.schemas import EXAMPLE_ID, Maybe
from horde.platform.http.fields import Input, Output
from horde.workers.schemas import Trimmed, WorkerDetailsLite


class CreateTeamInput(Input):
    """A team to found."""

    name: Trimmed = Field(min_length=3, max_length=100, description="Its name, unlike that of any other.")
    info: Trimmed | None = Field(None, min_length=3, max_length=1000, description="What it is about.")


class ModifyTeamInput(Input):
    """What to change of a team."""

    name: Trimmed | None = Field(
        None, min_length=3, max_length=100, description="Its name, unlike that of any other."
    )
    info: Trimmed | None = Field(None, min_length=3, max_length=1000, description="What it is about.")


class ModifyTeam(Output):
    """A team as it was founded or changed."""

    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    name: str = Field(description="Its name.")
    info: Maybe[str] = Field(None, description="What it is about, if that was set now.")


class DeletedTeam(Output):
    """A team that is no more."""

    deleted_id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    deleted_name: str = Field(description="Its name.")


class ActiveModelLite(Output):
    """A model, and how many run it."""

    name: str = Field(description="The model.", examples=["stable_diffusion"])
    count: int = Field(description="Workers of the team that run it.")


class TeamDetails(Output):
    """A team."""

    name: str = Field(description="Its name.")
    id: str = Field(description="Its id.", examples=[EXAMPLE_ID])
    info: str = Field("", description="What it is about.")
    creator: str = Field(description="Who founded it.", examples=["somebody#42"])
    requests_fulfilled: int = Field(description="Results that its workers delivered.")
    contributions: float = Field(description="Millions of pixels times steps, or of tokens, delivered.")
    kudos: float = Field(description="Kudos that its workers earned.")
    uptime: int = Field(description="Seconds for which its workers were rewarded for being online.")
    worker_count: int = Field(description="Number of workers.")
    performance: float = Field(
        description="Mean speed of its image workers that are online, in megapixelsteps per second."
    )
    speed: float = Field(description="Their speeds together.")
    workers: list[WorkerDetailsLite] = Field(default_factory=list, description="Its workers.")
    models: list[ActiveModelLite] = Field(default_factory=list, description="What they run.")
