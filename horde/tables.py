"""Every table, for migrations: importing this module fills `Base.metadata`."""

from horde.generation import tables as generation
from horde.image import tables as image
from horde.kudos import tables as kudos
from horde.model_reference import tables as model_reference
from horde.moderation import tables as moderation
from horde.platform.database import Base
from horde.status import tables as status
from horde.styles import tables as styles
from horde.users import tables as users
from horde.workers import tables as workers

__all__ = [
    "Base",
    "generation",
    "image",
    "kudos",
    "model_reference",
    "moderation",
    "status",
    "styles",
    "users",
    "workers",
]
