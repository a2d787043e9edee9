"""Rules about workers."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from horde.platform.errors import BadRequest
from horde.workers.software import Software

STALE_SECONDS = 300
"""A worker that has not popped for so long is offline."""
MAX_MODELS = 300
MAX_BLACKLIST = 200
MAX_PRIORITY_USERS = 50
MAX_NAME = 100
HOSTED_NOTEBOOKS = ("colab", "tpu", "google")
BASELINE_SPEED = {"image": 1_000_000.0, "text": 1.0, "interrogation": 1.0}
"""Raw things per second assumed of a worker that has not delivered yet."""
MAINTENANCE_MESSAGE = (
    "This worker is in maintenance mode. Its owner or a moderator has put it there; "
    "switch maintenance off in the worker's settings on this horde to get jobs again."
)


@dataclass(frozen=True, slots=True)
class WorkerFacts:
    """A worker and what its settings and software let it do; may be some seconds old."""

    id: UUID
    kind: str
    owner_id: int
    owner_trusted: bool
    name: str
    bridge_agent: str
    software: Software
    threads: int
    models: frozenset[str]
    blacklist: tuple[str, ...]
    max_pixels: int
    nsfw: bool
    allow_img2img: bool
    allow_painting: bool
    allow_unsafe_ipaddr: bool
    allow_post_processing: bool
    allow_controlnet: bool
    allow_sdxl_controlnet: bool
    allow_lora: bool
    limit_max_steps: bool
    extra_slow_worker: bool
    maintenance: bool
    maintenance_message: str | None
    paused: bool
    speed: float

    @property
    def only_owner(self) -> bool:
        """Whether it serves nobody but its owner at present."""
        return self.maintenance or self.paused


SETTINGS = (
    "bridge_agent",
    "threads",
    "models",
    "blacklist",
    "max_pixels",
    "nsfw",
    "allow_img2img",
    "allow_painting",
    "allow_unsafe_ipaddr",
    "allow_post_processing",
    "allow_controlnet",
    "allow_sdxl_controlnet",
    "allow_lora",
    "limit_max_steps",
    "extra_slow_worker",
)
"""What a pop says about its worker and is kept, by the column's name."""


def maintenance_text(message: str | None) -> str:
    """What a worker in maintenance is told. Deployed workers look for the words "maintenance mode"."""
    if not message:
        return MAINTENANCE_MESSAGE
    if "maintenance mode" in message.lower():
        return message
    return f"This worker is in maintenance mode: {message}"


def check_name(name: str) -> str:
    """The trimmed name of a worker. Raises for an empty, over-long or misleading one."""
    name = name.strip()
    if not name:
        raise BadRequest("A worker needs a name. Set one in your worker's configuration.")
    if len(name) > MAX_NAME:
        raise BadRequest(
            f"The worker's name has {len(name)} characters; at most {MAX_NAME} are possible.",
            "TooLongWorkerName",
        )
    return name


def check_new_name(name: str) -> None:
    """Refuse names that suggest a rented notebook, whose terms forbid this use."""
    for word in HOSTED_NOTEBOOKS:
        if word in name.lower():
            raise BadRequest(f"A worker's name may not contain '{word}'. Choose another name.")


def clean_blacklist(words: Sequence[str]) -> list[str]:
    """Up to 200 lower-case words, without empty ones and repetitions."""
    cleaned = dict.fromkeys(word.strip().lower() for word in words[:MAX_BLACKLIST])
    cleaned.pop("", None)
    return list(cleaned)


def priority_user_ids(names: Sequence[str]) -> list[int]:
    """The ids in `alias#id` names; the first 50 count. Raises `InvalidPriorityUsername` for anything else."""
    ids = []
    for name in names:
        _, mark, number = name.rpartition("#")
        if not mark or not (number.isascii() and number.isdigit()) or len(number) > 18:
            raise BadRequest(
                f"'{name[:60]}' is not a full user name. Priority users are written like 'name#123'.",
                "InvalidPriorityUsername",
            )
        ids.append(int(number))
    return ids[:MAX_PRIORITY_USERS]


def changed_settings(worker: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of `settings` that differ from what is stored of a worker."""
    return {name: value for name, value in settings.items() if getattr(worker, name) != value}


def online(last_seen: datetime, now: datetime) -> bool:
    """Whether a worker popped within the last five minutes."""
    return (now - last_seen).total_seconds() <= STALE_SECONDS
