"""Rules about workers."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any
from uuid import UUID

from horde.platform.errors import BadRequest, Forbidden, NotFound
from horde.workers.software import Software

STALE_SECONDS = 300
"""A worker that has not popped for so long is offline."""
MAX_MODELS = 300
MAX_BLACKLIST = 200
MAX_WORD = 100
"""Characters of a refused word that are compared."""
EXTREME_PIXELS = 3072 * 3072
"""Width times height; few machines can make larger images."""
MAX_PRIORITY_USERS = 50
MAX_NAME = 100
TURNS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Bidirectional classes of invisible characters that change the direction of writing."""
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
    hosts_painters: bool = True
    """Whether one of its models is made for filling in parts of images,"""
    hosts_others: bool = True
    """and whether one is not."""
    priority_users: frozenset[int] = frozenset()
    """Users whom its last pop named, where it matters to others (see `priorities`)."""

    @property
    def only_owner(self) -> bool:
        """Whether it serves nobody but its owner at present."""
        return self.maintenance or self.paused

    def serves_first(self, user_id: int) -> bool:
        """Whether requests of this user come before everybody's."""
        return user_id == self.owner_id or user_id in self.priority_users


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
    "amount",
)
"""What a pop says about its worker and is kept, by the column's name."""
SHOWN_ONLY = frozenset({"amount"})
"""Those by which nobody decides anything: a change of them alone may reach the database later."""


def maintenance_text(message: str | None) -> str:
    """What a worker in maintenance is told. Deployed workers look for the words "maintenance mode"."""
    if not message:
        return MAINTENANCE_MESSAGE
    if "maintenance mode" in message.lower():
        return message
    return f"This worker is in maintenance mode: {message}"


def no_worker(given: str) -> NotFound:
    """The error for an id or name that no worker has."""
    return NotFound(f"There is no worker '{given[:100]}'.", "WorkerNotFound")


def check_name(name: str) -> str:
    """The trimmed name of a worker. Raises for one that is empty, too long or cannot be shown as it is."""
    name = name.strip()
    if not _visible(name):
        raise BadRequest("A worker needs a name. Set one in your worker's configuration.")
    if len(name) > MAX_NAME:
        raise BadRequest(
            f"The worker's name has {len(name)} characters; at most {MAX_NAME} are possible.",
            "TooLongWorkerName",
        )
    if any(map(_misleads, name)):
        raise BadRequest(
            "The worker's name holds a line break, a control character or a mark that changes the direction "
            "of writing. Choose a name without it."
        )
    return name


def readable(name: str) -> bool:
    """Whether a name can be seen, and stands beside others without changing how they are shown."""
    return _visible(name) and not any(map(_misleads, name))


def _visible(name: str) -> bool:
    return any(character.isprintable() and not character.isspace() for character in name)


def _misleads(character: str) -> bool:
    """Whether it ends a line, steers a terminal, or changes how what comes after it is shown."""
    return (
        unicodedata.category(character) in ("Cc", "Zl", "Zp") or unicodedata.bidirectional(character) in TURNS
    )


def check_new_name(name: str) -> None:
    """Refuse names that suggest a rented notebook, whose terms forbid this use."""
    for word in HOSTED_NOTEBOOKS:
        if word in name.lower():
            raise BadRequest(f"A worker's name may not contain '{word}'. Choose another name.")


@dataclass(frozen=True, slots=True)
class Room:
    """How many workers an owner has, of every kind, online or not, and how many are possible."""

    workers: int
    here: int
    """Of these, those that last called from the address of the one that is to be registered."""
    invited: int
    """Workers that moderators allow this owner whatever the limits are."""
    trusted: bool
    most: int
    most_here: int


def check_room(room: Room, *, invite_only: bool) -> None:
    """Raise 403 when the owner may not have one more worker, here or at all."""
    if invite_only and room.workers >= room.invited:
        raise Forbidden(
            "New workers need an invitation at present. Ask the moderators for one."
            if not room.workers
            else f"You have {room.workers} workers, and new ones need an invitation at present. "
            "Ask the moderators for one, or delete a worker that you do not use.",
            "WorkerInviteOnly",
        )
    most, most_here = max(room.most, room.invited), max(room.most_here, room.invited)
    if room.workers >= most:
        raise Forbidden(
            f"You have {room.workers} workers, and {most} is the most for your account. "
            "Delete one that you do not use, or ask a moderator for more.",
            "TooManyWorkersTrusted" if room.trusted else "TooManyWorkers",
        )
    if room.here >= most_here:
        raise Forbidden(
            f"{room.here} of your workers run at this address already, and {most_here} is the most.",
            "TooManySameIPs",
        )


def clean_blacklist(words: Sequence[str]) -> list[str]:
    """Up to 200 lower-case words, without empty ones and repetitions; of each up to 100 characters."""
    cleaned = dict.fromkeys(word.strip().lower()[:MAX_WORD] for word in words[:MAX_BLACKLIST])
    cleaned.pop("", None)
    return list(cleaned)


def check_priority_usernames(names: Sequence[str]) -> None:
    """Raise `InvalidPriorityUsername` unless each of `names` has the form `alias#number`."""
    for name in names:
        if "#" not in name:
            raise _no_full_name(name)


def priority_user_ids(names: Sequence[str]) -> list[int]:
    """The numbers of `alias#number` names; the first 50 count. Raises `InvalidPriorityUsername`."""
    ids = []
    for name in names:
        number = name.rpartition("#")[2].strip()
        if not (number.isascii() and number.isdigit()) or len(number) > 18:
            raise _no_full_name(name)
        ids.append(int(number))
    return ids[:MAX_PRIORITY_USERS]


def _no_full_name(name: str) -> BadRequest:
    return BadRequest(
        f"'{name[:60]}' is not a full user name. Priority users are written like 'name#123'.",
        "InvalidPriorityUsername",
    )


UPTIME_PERIOD = 600
"""Seconds of uptime for which there is one reward."""
UPTIME_REWARDS: Mapping[str, Callable[[Any], Decimal]] = MappingProxyType(
    {"image": lambda worker: Decimal(50 + 2 * len(worker.models) + (30 if worker.allow_lora else 0))}
)
"""By kind: kudos for 600 seconds online, of a worker with its columns. Other kinds earn none."""


def changed_settings(worker: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """Those of `settings` that differ from what is known of a worker and matter at once."""
    return {
        name: value
        for name, value in settings.items()
        if name not in SHOWN_ONLY and getattr(worker, name) != value
    }


def online(last_seen: datetime, now: datetime) -> bool:
    """Whether a worker popped within the last five minutes."""
    return (now - last_seen).total_seconds() <= STALE_SECONDS
