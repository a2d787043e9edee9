"""Checks of an image request: of all that a request breaks, the first in the documented order is told.

Every check is broken alone, and together with each later one as far as both can be broken at once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from werkzeug.test import TestResponse

from horde.settings import ROOT
from horde.users.rules import Role
from tests.https_server import HttpsServer, reply
from tests.support import (
    FLUX,
    MODEL,
    SDXL,
    Account,
    Horde,
    another_process,
    assert_refused,
    change,
    unchanged,
)

SD2, PICKY, CONTROLNET = "stable_diffusion_2.1", "picky", "control_canny"
PLACEHOLDER = "My-Project:v0.0.1:My-Contact"
IMAGE = {"image": "no base64!"}
"""Pictures are looked at last of all, so that every request with one breaks that check too."""
SOURCE = {"source_image": "no base64!"}
Body = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """What breaks one check."""

    status: int
    rc: str
    body: Body = field(default_factory=dict)
    who: Body = field(default_factory=dict)
    """What the caller is: roles and other properties that `Scene.key_of` knows."""
    horde: str = ""
    """What the horde or the address is at the moment: maintenance, timeout or raid."""
    reached: Body = field(default_factory=dict)
    """What else the body must hold for earlier checks to be kept,"""
    reached_by: Body = field(default_factory=dict)
    """and what else the caller must be."""
    mended: Callable[[Body], object] = lambda body: False
    """Whether a body keeps the check although it holds `body`."""
    word: str = ""
    errors: str = ""
    """The field that is blamed, of checks that are answered with `errors`."""
    dry: bool = True
    """Whether a dry run is held against it too."""

    @property
    def name(self) -> str:
        return f"{self.rc or self.errors}{'-' * bool(self.word)}{self.word}"


def params(**values: Any) -> Body:
    return {"params": values}


def with_source(body: Body) -> bool:
    return "source_image" in body


CONTROL = {"control_type": "normal"}
SPECIAL = {"special": True}
OWN = "horde_special::<alias>"
EXPIRED = (datetime.now(UTC) - timedelta(days=1)).isoformat()
SUSPICIOUS = "forbidden fruit in a garden "
QR_TEXTS = [{"text": "a", "reference": "qr_code"}]

CHECKS = [
    Check(400, "", {"nsfw": "yes"}, errors="nsfw"),
    Check(400, "", who={"key": None}, errors="apikey"),
    Check(404, "StyleNotFound", {"style": "no such style"}),
    Check(400, "MaintenanceMode", horde="maintenance"),
    Check(400, "BadRequest", {"webhook": "https://10.0.0.1/hook"}, word="webhook"),
    Check(401, "InvalidAPIKey", who={"key": "x" * 22}),
    Check(403, "SharedKeyEmpty", who={"key": {"kudos": 0}}),
    Check(403, "SharedKeyExpired", who={"key": {"expires": EXPIRED}}),
    Check(400, "OnlyServiceAccountProxy", {"proxied_account": "somebody"}),
    Check(403, "DeletedUser", who={"deleted": True}),
    Check(400, "TooManyExtraSourceImages", {"extra_source_images": [IMAGE] * 6}),
    Check(400, "MoreThanMinExtraSourceImage", {"extra_source_images": [IMAGE] * 2}),
    Check(404, "WorkerNotFound", {"workers": [str(uuid4())]}),
    Check(400, "RequiresTrust", {"disable_batching": True, **params(n=2)}),
    Check(429, "TooManyPrompts", who={"full": True}, dry=False),
    Check(403, "TimeoutIP", horde="timeout"),
    Check(400, "BadRequest", {"prompt": SUSPICIOUS + "x" * 7000}, word="rewritten"),
    Check(400, "CorruptPrompt", {"prompt": "forbidden fruit"}, {"flagged": True}),
    Check(400, "HiResMismatch", {"models": [FLUX], **params(hires_fix=True)}),
    Check(400, "TooManyLoras", params(loras=[{"name": "1"}] * 6)),
    Check(400, "BadLoraVersion", params(loras=[{"name": "v1.0", "is_version": True}])),
    Check(400, "TooManyTIs", params(tis=[{"name": "1"}] * 21)),
    *(
        Check(400, "InvalidTransparencyModel", {"models": [model], **params(transparent=True)})
        for model in (FLUX, SD2)
    ),
    *(
        Check(400, "ControlNetMismatch", {"models": [model], **params(workflow="qr_code")}, word="qr_code")
        for model in (FLUX, SD2)
    ),
    Check(400, "InvalidPromptSize", {"prompt": "word " * 7501}),
    Check(400, "UnexpectedModelName", {"models": ["CodeFormers"]}, word="post-processor"),
    Check(400, "TooManyUpscalers", params(post_processing=["NMKD_Siax", "4x_AnimeSharp"])),
    Check(400, "BadCFGDecimals", params(cfg_scale=5.125)),
    Check(400, "BadRequest", {"models": ["*"]}, word="'*'"),
    Check(400, "BadRequest", {"models": [f"model {number}" for number in range(201)]}, word="200 models"),
    Check(403, "SpecialModelNeedsSpecialUser", {"models": ["horde_special::x"]}, {"special": False}),
    Check(400, "SpecialMissingUsername", {"models": ["horde_special"]}, reached_by=SPECIAL),
    Check(403, "SpecialForbidden", {"models": ["horde_special::nobody#1"]}, reached_by=SPECIAL),
    Check(
        400,
        "SpecialMissingPayload",
        {"models": [OWN]},
        reached_by=SPECIAL,
        mended=lambda body: "special" in body.get("params", {}),
    ),
    Check(403, "UntrustedUnsafeIP", horde="raid"),
    Check(400, "SpecialFieldNeedsSpecialUser", params(special={"a": {}}), {"special": False}),
    Check(400, "SourceMaskUnnecessary", {"source_mask": "x"}, mended=with_source),
    Check(400, "ControlNetUnsupported", {"models": [SD2], **params(**CONTROL)}, word="normal"),
    Check(400, "ControlNetUnsupported", {"models": ["pix2pix"], **params(**CONTROL)}, word="model"),
    Check(400, "ControlNetSourceMissing", params(**CONTROL), mended=with_source),
    Check(
        400,
        "ControlNetInpaintingMismatch",
        {"source_processing": "inpainting", **params(**CONTROL)},
        reached=SOURCE,
    ),
    Check(
        400,
        "ControlNetMismatch",
        {"models": [SDXL], **params(**CONTROL)},
        reached=SOURCE,
        word="control types",
    ),
    Check(400, "InvalidTransparencyCN", params(transparent=True, **CONTROL), reached=SOURCE),
    Check(400, "InvalidTransparencyImg2Img", {"extra_source_images": [IMAGE], **params(transparent=True)}),
    Check(400, "InvalidRemix", {"models": [MODEL], "source_processing": "remix"}),
    Check(
        400,
        "InvalidExtraSourceImages",
        {"extra_source_images": [IMAGE]},
        mended=lambda body: body.get("source_processing") == "remix",
    ),
    Check(
        400,
        "InvalidExtraTexts",
        params(extra_texts=QR_TEXTS),
        mended=lambda body: "workflow" in body.get("params", {}),
    ),
    Check(
        400,
        "MissingExtraTexts",
        params(workflow="qr_code"),
        mended=lambda body: "extra_texts" in body.get("params", {}),
    ),
    Check(400, "ControlNetInvalidPayload", params(image_is_control=True, return_control_map=True)),
    Check(400, "SourceImageRequiredForModel", {"models": ["pix2pix"]}, mended=with_source),
    Check(400, "UnexpectedModelName", {"models": [CONTROLNET]}, mended=with_source, word="control_type"),
    Check(403, "BannedClientAgent", who={"agent": PLACEHOLDER}),
    Check(400, "ClipSkipMismatch", {"models": [PICKY], "model_requirements": "reject"}),
    Check(403, "SharedKeyInsufficientKudos", who={"key": {"kudos": 1}}, dry=False),
    Check(403, "KudosUpfront", {"slow_workers": False}, {"poor": True}, dry=False),
    Check(400, "BadRequest", who={"key": {"max_image_pixels": 512 * 511}}, word="pixels that"),
    Check(400, "BadRequest", who={"key": {"max_image_steps": 29}}, word="steps, and this"),
    Check(400, "ImageValidationFailed", SOURCE, dry=False),
]


class Conflict(Exception):
    """Two checks cannot be broken at once."""


def merged(first: Body, second: Body) -> Body:
    """Both together: objects field by field, lists one after the other. Raises `Conflict`."""
    result = dict(first)
    for name, value in second.items():
        given = result.get(name)
        if name not in result or given == value:
            result[name] = value
        elif isinstance(given, dict) and isinstance(value, dict):
            result[name] = merged(given, value)
        elif isinstance(given, list) and isinstance(value, list):
            together = [*given, *value]
            result[name] = (
                list(dict.fromkeys(together)) if name in ("models", "post_processing") else together
            )
        else:
            raise Conflict
    return result


def within(part: Any, whole: Any) -> bool:
    """Whether `whole` holds all of `part`."""
    if isinstance(part, dict):
        return isinstance(whole, dict) and all(
            name in whole and within(value, whole[name]) for name, value in part.items()
        )
    if isinstance(part, list):
        return len(part) <= len(whole) and all(item in whole for item in part)
    return bool(part == whole)


@dataclass(frozen=True)
class Broken:
    """A request that breaks checks."""

    body: Body
    who: Body
    states: frozenset[str]

    def breaks(self, check: Check) -> bool:
        """Whether it breaks `check`, as far as its body and its sender show that."""
        shown = within(check.body, self.body) and within(check.who, self.who)
        return shown and check.horde in {*self.states, ""} and not check.mended(self.body)


def broken(number: int, other: int | None = None) -> Broken:
    """A request that breaks a check and maybe a later one, but none before. Raises `Conflict`."""
    checks = [CHECKS[each] for each in (number, other) if each is not None]
    first = checks[0]
    body, who = first.reached, first.reached_by
    for check in checks:
        body, who = merged(body, check.body), merged(who, check.who)
    request = Broken(body, who, frozenset(check.horde for check in checks) - {""})
    if not all(request.breaks(check) for check in checks) or any(map(request.breaks, CHECKS[:number])):
        raise Conflict
    if not isinstance(who.get("key", {}), dict) and len(who) > 1:
        raise Conflict  # of somebody unknown nothing else is known
    return request


class Scene:
    """A horde with callers of all sorts, in all its states."""

    def __init__(self, horde: Horde) -> None:
        self.horde = horde
        self.moderator = horde.account(Role.MODERATOR)
        self.keys: dict[str, tuple[str | None, str]] = {}
        self.states: frozenset[str] = frozenset()
        for expression, kind in (("forbidden fruit", 10), ("garden", 20)):
            new = {"regex": expression, "filter_type": kind, "description": "x", "replacement": ""}
            assert horde.call("PUT", "/filters", self.moderator, json=new).status_code == 200

    def key_of(self, who: Body) -> tuple[str | None, str]:
        """The API key of somebody like that, and their alias."""
        name = orjson.dumps(who, option=orjson.OPT_SORT_KEYS).decode()
        if name not in self.keys:
            self.keys[name] = self._new_key(who)
        return self.keys[name]

    def _new_key(self, who: Body) -> tuple[str | None, str]:
        key = who.get("key", {})
        if not isinstance(key, dict):
            return key, "nobody#1"
        roles = [role for role in (Role.SPECIAL, Role.FLAGGED, Role.DELETED) if who.get(role.value)]
        caller = self.horde.account(*roles, amount=0 if who.get("poor") else 10_000)
        if who.get("full"):
            change(self.horde.platform, "UPDATE users SET concurrency = 0 WHERE id = :id", id=caller.id)
        return (self._shared(caller, key) if key else caller.key), caller.alias

    def _shared(self, owner: Account, limits: Body) -> str:
        key = str(uuid4())
        columns = {"kudos": -1, "max_image_pixels": -1, "max_image_steps": -1, "expires": None} | limits
        change(
            self.horde.platform,
            """
            INSERT INTO shared_keys (id, account_id, name, kudos, utilized, expires, max_image_pixels,
                max_image_steps, max_text_tokens)
            VALUES (:id, :account, '', :kudos, 0, CAST(:expires AS timestamptz), :max_image_pixels,
                :max_image_steps, -1)
            """,
            id=key,
            account=owner.balance,
            **columns,
        )
        return key

    def become(self, states: frozenset[str]) -> None:
        """Bring about these states of the horde, and end the others."""
        for state in self.states ^ states:
            on = state in states
            if state == "timeout":
                method, hours = ("POST", {"hours": 1}) if on else ("DELETE", {})
                content = {"ipaddr": "127.0.0.1", **hours}
                response = self.horde.call(method, "/operations/ipaddr", self.moderator, json=content)
                assert response.status_code == 200
            else:
                change(self.horde.platform, f"UPDATE modes SET {state} = {on}")
        self.states = states

    def ask(self, request: Broken, **fields: Any) -> TestResponse:
        """Send a request, in the state of the horde that it is about."""
        self.become(request.states)
        key, alias = self.key_of(request.who)
        models = [name.replace("<alias>", alias) for name in request.body.get("models", ())]
        body = request.body | fields | ({"models": models} if models else {})
        headers = {"Client-Agent": request.who.get("agent", "a test:1:nobody")}
        json = {"prompt": "a lighthouse at dawn"} | body
        return self.horde.call("POST", "/generate/async", key, headers, json=json)


@contextmanager
def told_of(check: Check) -> Iterator[None]:
    """Let failures inside name the other check."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"together with {check.name}: {error}") from error


def assert_told(response: TestResponse, check: Check) -> None:
    if check.errors:
        assert (response.status_code, list(response.json["errors"])) == (check.status, [check.errors])
    else:
        assert_refused(response, check.status, check.rc, check.word)


@pytest.fixture(scope="module")
def scene(
    shared_horde: Horde, module_server: HttpsServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    module_server.answer = reply(body=b"1")
    reference = orjson.loads((ROOT / "config" / "models" / "image.json").read_bytes())
    for name, facts in ((CONTROLNET, {"type": "controlnet"}), (PICKY, {"requirements": {"clip_skip": 2}})):
        reference[name] = reference[MODEL] | {"name": name} | facts
    path: Path = tmp_path_factory.mktemp("reference") / "image.json"
    path.write_bytes(orjson.dumps(reference))
    with another_process(
        shared_horde,
        model_reference_image=str(path),
        ip_checker_url=module_server.url("/{address}"),
        outbound_networks=(ip_network("127.0.0.0/8"),),
        outbound_ca_file=module_server.ca_file,
    ) as process:
        yield Scene(process)


@pytest.mark.parametrize("number", range(len(CHECKS)), ids=lambda number: CHECKS[number].name)
def test_the_first_check_that_a_request_breaks_is_told(scene: Scene, number: int) -> None:
    check, alone, pairs = CHECKS[number], broken(number), []
    for other, later in enumerate(CHECKS[number + 1 :], number + 1):
        with suppress(Conflict):
            pairs.append((later, broken(number, other)))
    assert pairs or check is CHECKS[-1]
    for request in (alone, *(request for _, request in pairs)):
        scene.key_of(request.who)
    with unchanged(scene.horde.platform):
        assert_told(scene.ask(alone), check)
        dry = scene.ask(alone, dry_run=True)
        if check.dry:
            assert_told(dry, check)
        else:
            assert dry.status_code == 200, dry.json
        for later, request in pairs:
            with told_of(later):
                assert_told(scene.ask(request), check)
        scene.become(frozenset())
