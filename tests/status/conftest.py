"""Reading the horde's figures as they are now."""

from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import TestResponse

from tests.support import Horde, forget

See = Callable[..., Any]


def recount(horde: Horde) -> None:
    """Let the horde count its figures anew, as if the seconds that it keeps them had passed."""
    forget(horde.platform)
    for key in horde.platform.cache.scan_iter("reading:*"):
        horde.platform.cache.delete(key)


@pytest.fixture
def see(horde: Horde) -> See:
    """What GET of a path answers, counted anew."""

    def get(path: str, **query: Any) -> Any:
        recount(horde)
        response: TestResponse = horde.call("GET", path, query_string=query)
        assert response.status_code == 200, response.json
        return response.json

    return get
