"""How styles and collections are named."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.platform.errors import BadRequest
from horde.styles.rules import Reference, clean_name, full_name, parse_reference

USERNAMES = st.text(st.characters(exclude_characters=":"), max_size=30)


@given(st.text(max_size=100), USERNAMES, st.integers(0, 2**31), st.sampled_from(["style", "collection"]))
def test_full_names_name_what_they_say(given_name: str, username: str, number: int, thing: str) -> None:
    try:
        name = clean_name(given_name)
    except BadRequest:
        return
    if username in ("style", "collection"):
        username += "s"
    alias = f"{username}#{number}"
    expected = Reference(name, thing, number)  # type: ignore[arg-type]
    assert parse_reference(full_name(alias, thing, name)) == expected  # type: ignore[arg-type]
    assert parse_reference(f"{thing}::{alias}::{name}") == expected
    assert parse_reference(f"{alias}::{name}") == Reference(name, None, number)
    assert parse_reference(f"{thing}::{name}") == Reference(name, thing)  # type: ignore[arg-type]
    assert parse_reference(name) == Reference(name)


@given(st.text())
def test_anything_can_be_looked_up(given_name: str) -> None:
    found = parse_reference(given_name)
    assert found is None or found.name in given_name


@pytest.mark.parametrize(
    "name", ["", "style::", "a::b", "#::b", "a#-1::b", "style::style::b", "1::2::b", "a#9" + "9" * 20 + "::b"]
)
def test_what_names_nothing(name: str) -> None:
    assert parse_reference(name) is None
