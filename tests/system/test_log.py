"""What a server's log does not tell."""

import pytest
import requests

from horde.cli.serve import claim_port, local_url, start_web
from horde.platform.processes import Supervisor
from horde.platform.runtime import Platform
from horde.settings import Settings
from tests.support import account
from tests.web.browser import shown_key, token

pytestmark = pytest.mark.system


def test_no_key_and_no_token(
    settings: Settings, platform: Platform, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert settings.secret_key
    monkeypatch.setenv("SECRET_KEY", settings.secret_key.get_secret_value())
    monkeypatch.setenv("LOG_LEVEL", "debug")
    served = settings.model_copy(update={"host": "127.0.0.1", "port": claim_port("127.0.0.1", 0)})
    other = account(platform)
    secrets = {other.key, "no-such-key-of-22-sign"}
    with Supervisor(settings.var_dir) as supervisor:
        start_web(supervisor, served)
        url, browser = local_url(served), requests.Session()
        browser.headers["Origin"] = url

        def send(page: str, action: str, **fields: str) -> str:
            form = token(browser.get(url + page).text, action)
            secrets.update((form, *browser.cookies.values()))
            return browser.post(url + action, {"form_token": form, **fields}).text

        for _ in range(2):
            key = shown_key(send("/register", "/register", username="Ada"))
            secrets.update((key, *browser.cookies.values()))
        send("/transfer", "/transfer", username=other.alias, amount="1")
        secrets.add(shown_key(send("/account", "/account/key", sure="yes")))
        school = {"institution": "Harbour Street School", "contact": "teacher@school.example"}
        send("/education", "/education", **school, purpose="A class of 20 makes pictures.")
        send("/account", "/logout")
        send("/login", "/login", api_key=other.key)
        send("/login", "/login", api_key="no-such-key-of-22-sign")
        for known in (key, other.key):
            requests.get(f"{url}/api/v2/find_user", headers={"apikey": known}, timeout=20)
        requests.get(f"{url}/api/v2/kudos/transfer", headers={"apikey": other.key}, timeout=20)
        browser.close()  # the server waits for those who may still say something
    told = "".join(capfd.readouterr())
    assert "education application" in told  # that is, the log was caught
    assert len(secrets) > 15
    assert not [secret for secret in secrets if secret in told]
