"""What sets text styles apart."""

from horde.generation.schemas import RequestSingleWarning
from horde.platform.runtime import Platform
from horde.styles.rules import check_text_params
from horde.styles.service import Content, Kind
from horde.styles.text_schemas import ModelStyleInputParamsKobold, StyleKobold
from horde.users.rules import UserFacts


def _check(_platform: Platform, _user: UserFacts, content: Content) -> list[RequestSingleWarning]:
    check_text_params(content.params)
    return []


TEXT = Kind("text", StyleKobold, ModelStyleInputParamsKobold, ("{p}",), _check)
