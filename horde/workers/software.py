"""What a worker's program can do, told from the agent string that it announces."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Annotated, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from horde.generation.post_processors import POST_PROCESSORS

CAPABILITIES = POST_PROCESSORS | {
    "img2img",
    "inpainting",
    "r2",
    "r2_source",
    "clip_skip",
    "hires_fix",
    "tiling",
    "controlnet",
    "return_control_map",
    "image_is_control",
    "lora",
    "lora_versions",
    "textual_inversion",
    "extra_source_images",
    "stable_cascade_2pass",
    "qr_code",
    "extra_texts",
    "workflow",
    "layer_diffuse",
    "flux",
    "post-processing",
}
"""Every capability that a rule may ask for. A table that grants another one is refused, since such a grant
would silently do nothing."""

UNKNOWN = "unknown"
LATEST_OFFICIAL, OLDER_OFFICIAL, NOT_OFFICIAL = Decimal(1), Decimal("0.90"), Decimal("0.75")

CACHED_AGENTS = 4096

_NUMBER = r"(0|[1-9][0-9]{0,8})"
_VERSION = re.compile(
    rf"{_NUMBER}(?:\.{_NUMBER})?(?:\.{_NUMBER})?(?P<pre>-[0-9A-Za-z.-]+)?(?:\+[0-9A-Za-z.-]+)?", re.ASCII
)


class SoftwareTableError(ValueError):
    """The table cannot be used; the message says which file and why."""


class Version(NamedTuple):
    """A semantic version; a pre-release sorts before its release."""

    major: int
    minor: int = 0
    patch: int = 0
    released: bool = True

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `24`, `10.1` or `10.1.2-rc.1`; what is missing is 0. Raises ValueError."""
        match = _VERSION.fullmatch(text)
        if match is None:
            raise ValueError("not a version: give up to three numbers with dots between them")
        major, minor, patch = (int(number or 0) for number in match.group(1, 2, 3))
        return cls(major, minor, patch, match["pre"] is None)


@dataclass(frozen=True, slots=True)
class Software:
    """One version of one worker program."""

    name: str
    """`unknown` when the agent string cannot be read."""
    version: Version
    capabilities: frozenset[str]
    samplers_with_karras: frozenset[str]
    """Samplers it can use with the Karras noise schedule."""
    samplers_without_karras: frozenset[str]
    """Samplers it can use without it."""
    reward_factor: Decimal
    """Part of the value of its image work that its owner earns."""


def _version(value: object) -> Version:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("a version is a number or text")
    return Version.parse(str(value))


def _known(capabilities: dict[str, Version]) -> dict[str, Version]:
    unknown = sorted(capabilities.keys() - CAPABILITIES)
    if unknown:
        raise ValueError(f"no rule knows the capability {', '.join(unknown)}")
    return capabilities


_Minimum = Annotated[Version, BeforeValidator(_version)]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Samplers(_Entry):
    karras: dict[str, _Minimum] = {}
    no_karras: dict[str, _Minimum] = {}


class _Program(_Entry):
    name: Annotated[str, Field(min_length=1, pattern="^[^:]+$")]
    official: bool
    latest: _Minimum
    capabilities: Annotated[dict[str, _Minimum], AfterValidator(_known)] = {}
    samplers: _Samplers = _Samplers()


class _Agent(_Entry):
    name: str
    version: _Minimum


class _File(_Entry):
    unknown_samplers_like: _Agent
    program: list[_Program]


class SoftwareTable:
    """The known programs."""

    def __init__(self, programs: Mapping[str, _Program], unknown_samplers_like: _Agent) -> None:
        self._programs = programs
        self._unknown_samplers = _samplers(
            programs[unknown_samplers_like.name], unknown_samplers_like.version
        )
        # The same few agents announce themselves all the time.
        self._answers = lru_cache(maxsize=CACHED_AGENTS)(self._look_up)

    def capabilities(self, bridge_agent: str) -> Software:
        """What the program that announces itself as `bridge_agent` (`name:version:address`) can do."""
        return self._answers(bridge_agent)

    def _look_up(self, bridge_agent: str) -> Software:
        name, version = _read_agent(bridge_agent)
        program = self._programs.get(name)
        if program is None:
            return Software(name, version, frozenset(), *self._unknown_samplers, NOT_OFFICIAL)
        return Software(
            name,
            version,
            _reached(program.capabilities, version),
            *_samplers(program, version),
            _reward_factor(program, version),
        )


def load_software(path: Path) -> SoftwareTable:
    """Read the table from a TOML file (`config/worker_software.toml` explains it).

    Raises `SoftwareTableError` when the file is missing or anything in it is wrong.
    """
    try:
        with path.open("rb") as file:
            table = _File.model_validate(tomllib.load(file))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
        raise SoftwareTableError(f"The table of worker software {path} cannot be used: {error}") from error
    programs = {program.name: program for program in table.program}
    if len(programs) < len(table.program):
        raise SoftwareTableError(f"The table of worker software {path} lists a program twice.")
    if table.unknown_samplers_like.name not in programs:
        raise SoftwareTableError(
            f"The table of worker software {path} does not list the program that unknown_samplers_like names."
        )
    return SoftwareTable(programs, table.unknown_samplers_like)


def _read_agent(bridge_agent: str) -> tuple[str, Version]:
    parts = bridge_agent.split(":", 2)
    if len(parts) < 3 or not parts[0]:
        return UNKNOWN, Version(0)
    try:
        return parts[0], Version.parse(parts[1])
    except ValueError:
        return UNKNOWN, Version(0)


def _reached(minimums: Mapping[str, Version], version: Version) -> frozenset[str]:
    return frozenset(name for name, minimum in minimums.items() if version >= minimum)


def _samplers(program: _Program, version: Version) -> tuple[frozenset[str], frozenset[str]]:
    """Samplers usable with Karras noise, and without."""
    with_karras = _reached(program.samplers.karras, version)
    return with_karras, with_karras | _reached(program.samplers.no_karras, version)


def _reward_factor(program: _Program, version: Version) -> Decimal:
    if not program.official:
        return NOT_OFFICIAL
    return LATEST_OFFICIAL if version >= program.latest else OLDER_OFFICIAL
