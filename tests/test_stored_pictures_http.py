"""Pictures of the local store, as browsers get them from the whole application."""

from urllib.parse import urlsplit

from tests.support import WEBP, Horde


def test_other_sites_are_allowed_once(horde: Horde) -> None:
    """Browsers refuse an answer that allows them twice."""
    horde.platform.store.put("picture", WEBP)
    url = urlsplit(horde.platform.store.download_url("picture"))
    for method in ("GET", "OPTIONS"):
        answer = horde.client.open(f"{url.path}?{url.query}", method=method)
        assert answer.status_code in (200, 204)
        for name in ("Access-Control-Allow-Origin", "Access-Control-Allow-Methods"):
            assert len(answer.headers.getlist(name)) == 1, (method, name)
