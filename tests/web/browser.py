"""A visitor with a browser's cookies and headers, but without a browser."""

import re
from dataclasses import dataclass
from html import unescape
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support import Horde

ORIGIN = "http://localhost"
_FORM = re.compile(r'<form method="post" action="([^"]+)">(.*?)</form>', re.DOTALL)
_TOKEN = re.compile(r'name="form_token" value="([^"]+)"')


@dataclass
class Visitor:
    """Looks at pages of a horde and sends their forms."""

    horde: Horde
    client: FlaskClient
    base: str = ORIGIN

    @classmethod
    def of(cls, horde: Horde, base: str = ORIGIN) -> "Visitor":
        """Somebody who comes for the first time."""
        return cls(horde, horde.client.application.test_client(), base)

    def get(self, path: str, **values: Any) -> TestResponse:
        """Look at a page; rate limits are never in the way."""
        self._forget_limits()
        return self.client.get(path, base_url=self.base, **values)

    def token(self, page: str, action: str | None = None) -> str:
        """The token of the form on `page` that is sent to `action`, by default to the same address."""
        return token(self.get(page).text, action or page)

    def send(self, action: str, data: dict[str, str], **headers: str) -> TestResponse:
        """Send `data` as they are."""
        self._forget_limits()
        headers = {"Origin": self.base} | {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(action, data=data, headers=headers, base_url=self.base)

    def fill(self, page: str, action: str | None = None, **fields: str) -> TestResponse:
        """Look at `page`, fill in its form and send it."""
        action = action or page
        return self.send(action, {"form_token": self.token(page, action), **fields})

    def log_in(self, key: str) -> TestResponse:
        """With an API key."""
        return self.fill("/login", api_key=key)

    @property
    def cookie(self) -> str | None:
        """The session's token, as the browser keeps it."""
        name = "__Host-horde" if self.base.startswith("https") else "horde"
        host = self.base.partition("://")[2]
        found = self.client.get_cookie(name, host)
        return found.value if found else None

    def _forget_limits(self) -> None:
        counters = list(self.horde.platform.cache.scan_iter("limit:*"))
        if counters:
            self.horde.platform.cache.delete(*counters)


def token(html: str, action: str) -> str:
    """The token of the form in `html` that is sent to `action`."""
    for target, form in _FORM.findall(html):
        if target == action:
            found = _TOKEN.search(form)
            assert found, "the form has no token"
            return unescape(found[1])
    raise AssertionError(f"no form is sent to {action}")


def shown_key(html: str) -> str:
    """The API key that a page tells."""
    found = re.search(r'<output id="api-key">([^<]+)</output>', html)
    assert found, html
    return unescape(found[1])
