"""Whether whoever registers is human, where the operator wants to know."""

import requests
import structlog
from flask import g, request

from horde.platform.errors import BadRequest
from horde.platform.runtime import Platform

FIELD = "g-recaptcha-response"
CALL_SECONDS = 10

log = structlog.get_logger(__name__)


def shown(platform: Platform) -> dict[str, str] | None:
    """The `script` and the `site_key` of the riddle on the present page; None where there is none."""
    settings = platform.settings
    if not settings.recaptcha_site_key or settings.recaptcha_secret_key is None:
        return None
    origins = " ".join(settings.captcha_origins)
    g.web_policy = {"script-src": origins, "frame-src": origins, "connect-src": origins}
    return {"script": settings.captcha_script, "site_key": settings.recaptcha_site_key}


def check(platform: Platform, address: str) -> None:
    """Raise `BadRequest` (400) unless the riddle is off or was solved."""
    settings = platform.settings
    if not settings.recaptcha_site_key or settings.recaptcha_secret_key is None:
        return
    sent = {
        "secret": settings.recaptcha_secret_key.get_secret_value(),
        "response": request.form.get(FIELD, "")[:10_000],
        "remoteip": address,
    }
    try:
        answer = requests.post(settings.captcha_check, sent, timeout=CALL_SECONDS, allow_redirects=False)
        solved = answer.ok and answer.json().get("success") is True
    except (requests.RequestException, ValueError, AttributeError) as error:
        log.warning("captcha not checked", error=type(error).__name__)
        solved = False
    if not solved:
        raise BadRequest("Please show that you are human: solve the captcha and send the form again.")
