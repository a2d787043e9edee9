"""Styles that tests make."""

from typing import Any

from tests.support import Account, Horde

STYLE = {
    "name": "Oil",
    "info": "Everything in oil",
    "prompt": "{p}, oil painting###{np}",
    "params": {"steps": 20, "width": 640, "loras": [{"name": "brush"}]},
    "models": ["stable_diffusion"],
    "tags": ["oil", "paint"],
}
TEXT_STYLE = {"name": "Bard", "prompt": "Sing: {p}", "params": {"top_k": 5}, "models": ["a/model"]}


def made(horde: Horde, owner: Account, kind: str = "image", **fields: Any) -> str:
    """The id of a new style."""
    body = (STYLE if kind == "image" else TEXT_STYLE) | fields
    response = horde.call("POST", f"/styles/{kind}", owner, json=body)
    assert response.status_code == 200, response.json
    assert response.json["message"] == "OK"
    return str(response.json["id"])


def shown(horde: Horde, style: str, key: Account | None = None, kind: str = "image") -> dict[str, Any]:
    response = horde.call("GET", f"/styles/{kind}/{style}", key)
    assert response.status_code == 200, response.json
    return dict(response.json)


def shared_key(horde: Horde, owner: Account, **fields: Any) -> str:
    """The id of a new shared key."""
    response = horde.call("PUT", "/sharedkeys", owner, json=fields)
    assert response.status_code == 200, response.json
    return str(response.json["id"])
