"""A browser front end on another origin: the calls that it makes, and what it needs of their answers."""

import io
import time
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
import requests
from PIL import Image

from horde.platform.runtime import Platform
from horde.users.rules import Role
from tests.support import AGENT, PICTURE, SDXL, Account, account
from tests.system.conftest import Server

pytestmark = pytest.mark.system

ORIGIN = "https://front-end.example"
PERFORMANCE = {
    "queued_requests",
    "queued_text_requests",
    "worker_count",
    "text_worker_count",
    "thread_count",
    "text_thread_count",
    "queued_megapixelsteps",
    "past_minute_megapixelsteps",
    "queued_forms",
    "interrogator_count",
    "interrogator_thread_count",
    "queued_tokens",
    "past_minute_tokens",
}
FRESH_INSTALLATION: dict[str, Any] = {
    "prompt": "a lighthouse at dawn ### fog",
    "params": {
        "cfg_scale": 2,
        "seed": "",
        "sampler_name": "k_euler_a",
        "height": 1024,
        "width": 1024,
        "post_processing": [],
        "steps": 8,
        "tiling": False,
        "karras": True,
        "hires_fix": False,
        "clip_skip": 1,
        "n": 2,
        "loras": [{"name": "246747", "model": 1, "clip": 1, "is_version": True}],
    },
    "nsfw": False,
    "censor_nsfw": True,
    "trusted_workers": False,
    "models": [SDXL],
    "r2": True,
    "replacement_filter": True,
    "worker_blacklist": False,
    "shared": False,
    "slow_workers": True,
    "allow_downgrade": False,
    "dry_run": False,
}
OFFER = {
    "name": "Attic GPU",
    "models": [SDXL],
    "bridge_agent": AGENT,
    "max_pixels": 2048**2,
    "amount": 2,
    "allow_lora": True,
    "allow_controlnet": True,
}


class Browser:
    """Calls from a page on `ORIGIN`: a preflight first, as browsers do, and no answer without permission."""

    def __init__(self, server: Server, key: str) -> None:
        self.url = f"{server.url}/api/v2"
        self.key = key

    def call(self, method: str, path: str, body: Any = None, *, key: bool = False) -> requests.Response:
        # A type is declared with every call, whether there is a body or not.
        headers = {
            "Client-Agent": "Front end:1:https://front-end.example",
            "Content-Type": "application/json",
        }
        if key:
            headers["apikey"] = self.key
        self._ask_before(method, path, list(headers))
        answer = requests.request(
            method, self.url + path, json=body, headers={**headers, "Origin": ORIGIN}, timeout=20
        )
        assert answer.headers["Access-Control-Allow-Origin"] in ("*", ORIGIN)
        return answer

    def ok(self, method: str, path: str, body: Any = None, *, key: bool = False) -> Any:
        answer = self.call(method, path, body, key=key)
        assert answer.ok, answer.text
        return answer.json()

    def _ask_before(self, method: str, path: str, headers: list[str]) -> None:
        preflight = requests.options(
            self.url + path,
            headers={
                "Origin": ORIGIN,
                "Access-Control-Request-Method": method,
                "Access-Control-Request-Headers": ", ".join(headers).lower(),
            },
            timeout=20,
        )
        assert preflight.ok
        assert preflight.headers["Access-Control-Allow-Origin"] in ("*", ORIGIN)
        allowed = preflight.headers["Access-Control-Allow-Headers"].lower()
        assert allowed == "*" or all(name.lower() in allowed for name in headers)
        assert method in preflight.headers["Access-Control-Allow-Methods"]


@pytest.fixture
def owner(platform: Platform) -> Account:
    """Runs the worker, and uses the front end."""
    return account(platform, Role.TRUSTED, amount=1000, username="Keeper")


@pytest.fixture
def browser(server: Server, owner: Account) -> Browser:
    return Browser(server, owner.key)


def pop(browser: Browser, **fields: Any) -> dict[str, Any]:
    answer = requests.post(
        f"{browser.url}/generate/pop", json=OFFER | fields, headers={"apikey": browser.key}, timeout=20
    )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def submit(browser: Browser, job: str, **fields: Any) -> None:
    result = {"id": job, "generation": PICTURE, "seed": 7, **fields}
    answer = requests.post(
        f"{browser.url}/generate/submit", json=result, headers={"apikey": browser.key}, timeout=20
    )
    assert answer.status_code == 200, answer.text


def test_logging_in(browser: Browser, owner: Account, server: Server) -> None:
    me = browser.ok("GET", "/find_user", key=True)
    assert (me["username"], me["id"], me["kudos"]) == (owner.alias, owner.id, 1000)
    needed = {"kudos_details", "records", "trusted", "worker_count", "account_age"}
    assert needed <= me.keys()
    assert isinstance(me.get("worker_ids") or [], list)
    unknown = Browser(server, "no such key").call("GET", "/find_user", key=True)
    assert not unknown.ok
    assert unknown.json()["message"]


def test_what_the_horde_is_like(browser: Browser) -> None:
    assert browser.call("GET", "/status/heartbeat").ok
    pop(browser)
    performance = browser.ok("GET", "/status/performance")
    assert {name for name in PERFORMANCE if isinstance(performance[name], int | float)} == PERFORMANCE
    models = browser.ok("GET", "/status/models")
    assert all(
        {"name", "type", "count", "eta", "performance", "queued", "jobs"} <= model.keys() for model in models
    )
    assert [model["name"] for model in models if model["type"] == "image"] == [SDXL]
    for name in ("terms", "privacy"):
        assert "<" in browser.ok("GET", f"/documents/{name}")["html"]


def test_from_the_first_price_to_the_last_picture(browser: Browser) -> None:
    price = browser.ok(
        "POST", "/generate/async", {**FRESH_INSTALLATION, "prompt": "_", "dry_run": True}, key=True
    )
    assert price["kudos"] > 0
    sent = browser.call("POST", "/generate/async", FRESH_INSTALLATION, key=True)
    assert sent.status_code == 202, sent.text
    request = sent.json()
    assert "errors" not in request
    assert request["kudos"] == price["kudos"]

    checked = browser.ok("GET", f"/generate/check/{request['id']}")
    counts = (
        "finished",
        "processing",
        "waiting",
        "restarted",
        "wait_time",
        "queue_position",
        "kudos",
        "faulted",
    )
    assert all(name in checked for name in ("done", "is_possible", *counts))
    assert (checked["done"], checked["waiting"]) == (False, 2)

    jobs = pop(browser)["ids"]
    assert len(jobs) == 2
    under_way = browser.ok("GET", f"/generate/status/{request['id']}")
    assert [each["worker_name"] for each in under_way["processing_by"]] == ["Attic GPU"] * 2
    submit(browser, jobs[0])
    part = browser.ok("GET", f"/generate/status/{request['id']}")
    assert (part["done"], part["finished"], len(part["generations"])) == (False, 1, 1)
    submit(browser, jobs[1], gen_metadata=[{"type": "censorship", "value": "nsfw"}])

    deadline = time.monotonic() + 20
    while not (checked := browser.ok("GET", f"/generate/check/{request['id']}"))["done"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert (checked["finished"], checked["processing"], checked["waiting"]) == (2, 0, 0)
    status = browser.ok("GET", f"/generate/status/{request['id']}")
    needed = {"img", "seed", "id", "censored", "gen_metadata", "worker_id", "worker_name", "model", "state"}
    assert all(needed <= generation.keys() for generation in status["generations"])
    shown = [generation for generation in status["generations"] if not generation["censored"]]
    assert len(shown) == 1
    picture = requests.get(shown[0]["img"], headers={"Origin": ORIGIN}, timeout=20)
    assert picture.headers["Access-Control-Allow-Origin"] in ("*", ORIGIN)
    assert Image.open(io.BytesIO(picture.content)).format == "WEBP"


def test_every_change_is_priced(browser: Browser) -> None:
    params = FRESH_INSTALLATION["params"]
    without_sampler = {name: value for name, value in params.items() if name not in ("sampler_name", "loras")}
    changes: list[dict[str, Any]] = [
        {},
        {"params": params | {"control_type": ""}},
        {"params": params | {"hires_fix": True, "hires_fix_denoising_strength": 0.6}},
        {"params": params | {"post_processing": ["GFPGAN", "RealESRGAN_x4plus"], "facefixer_strength": 0.7}},
        {"params": params | {"tis": [{"name": "7808", "inject_ti": "prompt", "strength": 1}]}},
        {"params": params | {"transparent": True}},
        {"params": params | {"workflow": "qr_code", "extra_texts": [{"text": "a", "reference": "qr_code"}]}},
        {
            "params": params | {"denoising_strength": 0.7},
            "source_image": PICTURE,
            "source_processing": "img2img",
        },
        {
            "models": ["stable_diffusion"],
            "params": without_sampler | {"control_type": "canny", "width": 512, "height": 512},
            "source_image": PICTURE,
        },
        {"slow_workers": False},
        {"models": []},
    ]
    for change in changes:
        time.sleep(0.2)  # ten a second are allowed, and there is somebody at the keyboard
        answer = browser.call(
            "POST", "/generate/async", FRESH_INSTALLATION | change | {"dry_run": True}, key=True
        )
        assert answer.ok, (change, answer.text)
        assert answer.json()["kudos"] > 0


def test_cancelling(browser: Browser) -> None:
    request = browser.ok("POST", "/generate/async", FRESH_INSTALLATION, key=True)["id"]
    assert browser.call("DELETE", f"/generate/status/{request}").ok
    assert browser.ok("GET", f"/generate/check/{request}")["waiting"] == 0
    assert browser.call("GET", "/generate/check/00000000-0000-0000-0000-000000000000").status_code == 404


def test_managing_workers(browser: Browser, server: Server) -> None:
    stranger = Browser(server, "0000000000")
    pop(browser)
    (listed,) = [each for each in browser.ok("GET", "/workers") if each["type"] == "image"]
    worker = browser.ok("GET", f"/workers/{listed['id']}")
    assert worker["team"] == {"id": None, "name": None}
    float(worker["performance"].split()[0])
    needed = {"name", "online", "maintenance_mode", "requests_fulfilled", "kudos_rewards", "uptime", "models"}
    assert needed <= worker.keys()
    same = {"name": worker["name"], "team": ""}
    assert browser.call("PUT", f"/workers/{worker['id']}", {"maintenance": True, **same}, key=True).ok
    assert browser.call("PUT", f"/workers/{worker['id']}", {"info": "in the attic", **same}, key=True).ok
    changed = browser.ok("GET", f"/workers/{worker['id']}")
    assert (changed["maintenance_mode"], changed["info"]) == (True, "in the attic")
    assert browser.ok("GET", "/teams") == []
    sent = {"message": "dust the fans", "worker_id": worker["id"]}
    assert browser.call("POST", "/workers/messages", sent, key=True).ok
    (message,) = browser.ok("GET", "/workers/messages", key=True)
    assert {"id", "message", "origin", "expiry"} <= message.keys()
    parsedate_to_datetime(message["expiry"])
    assert isinstance(stranger.ok("GET", "/workers/messages", key=True), list)
    assert browser.call("DELETE", f"/workers/{worker['id']}", key=True).ok
    assert browser.call("GET", f"/workers/{worker['id']}").status_code == 404


def test_managing_shared_keys(browser: Browser, owner: Account, server: Server) -> None:
    made = browser.ok("PUT", "/sharedkeys", {"name": "for a friend", "kudos": 100}, key=True)["id"]
    shown = browser.ok("GET", f"/sharedkeys/{made}", key=True)
    assert (shown["id"], shown["name"], shown["kudos"], shown["utilized"]) == (made, "for a friend", 100, 0)
    assert shown["username"] == owner.alias
    renamed = {"id": made, "name": "for friends", "kudos": 200}
    assert browser.call("PATCH", f"/sharedkeys/{made}", renamed, key=True).ok
    assert browser.ok("GET", f"/sharedkeys/{made}", key=True)["kudos"] == 200
    assert made in browser.ok("GET", "/find_user", key=True)["sharedkey_ids"]
    friend = Browser(server, made)  # who logs in with it
    login = friend.ok("GET", f"/sharedkeys/{made}", key=True)
    assert login["username"] == owner.alias
    assert "message" not in login
    assert friend.ok("POST", "/generate/async", FRESH_INSTALLATION, key=True)["id"]
    assert browser.ok("DELETE", f"/sharedkeys/{made}", key=True)["message"] == "OK"
