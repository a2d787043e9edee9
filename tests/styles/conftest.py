"""People around styles."""

import pytest

from horde.users.rules import Role
from tests.support import Account, Horde


@pytest.fixture
def painter(horde: Horde) -> Account:
    """May make styles."""
    return horde.account(Role.CUSTOMIZER, username="Painter")


@pytest.fixture
def moderator(horde: Horde) -> Account:
    return horde.account(Role.MODERATOR, username="Moderator")


@pytest.fixture
def stranger(horde: Horde) -> Account:
    return horde.account(Role.TRUSTED, amount=1000, username="Stranger")
