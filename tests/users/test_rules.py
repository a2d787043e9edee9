"""Rules about accounts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from horde.users import edit_rules
from horde.users.management_schemas import ModifyUserInput
from horde.users.rules import (
    EDUCATION_CONCURRENCY,
    Role,
    concurrency_after,
    earliest_wipe,
    one_line,
    roles_after,
)

ROLES = st.sampled_from(Role)
CHANGES = st.lists(st.tuples(ROLES, st.booleans()), max_size=12)
MOMENTS = st.integers(0, 2**32).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@given(st.sets(ROLES), CHANGES)
def test_the_last_word_on_a_role_counts(held: set[Role], changes: list[tuple[Role, bool]]) -> None:
    after = roles_after(held, changes)
    for role in Role:
        words = [
            granted
            for changed, granted in changes
            if changed is role or (role is Role.TRUSTED and changed is Role.MODERATOR and granted)
        ]
        assert (role in after) == (words[-1] if words else role in held)


@given(st.sets(ROLES), CHANGES)
def test_the_same_changes_again_change_nothing(held: set[Role], changes: list[tuple[Role, bool]]) -> None:
    once = roles_after(held, changes)
    assert roles_after(once, changes) == once


@given(st.integers(0, 500), st.lists(st.booleans(), max_size=10))
def test_what_an_educator_had_before_comes_back(concurrency: int, granted: list[bool]) -> None:
    now, kept = concurrency, None
    held: set[Role] = set()
    for word in granted:
        after = roles_after(held, [(Role.EDUCATION, word)])
        now, kept = concurrency_after(now, kept, held, after)
        held = after
        assert now == (max(concurrency, EDUCATION_CONCURRENCY) if word else concurrency)


@given(st.integers(0, 500), st.sets(ROLES), CHANGES)
def test_other_roles_do_not_count(
    concurrency: int, held: set[Role], changes: list[tuple[Role, bool]]
) -> None:
    after = roles_after(held, [change for change in changes if change[0] is not Role.EDUCATION])
    assert concurrency_after(concurrency, None, held, after) == (concurrency, None)


@given(MOMENTS, MOMENTS)
def test_a_month_since_both(marked: datetime, last_active: datetime) -> None:
    earliest = earliest_wipe(marked, last_active)
    assert earliest - marked >= timedelta(days=30)
    assert earliest - last_active >= timedelta(days=30)
    assert earliest - timedelta(days=30) in (marked, last_active)


@given(st.text())
def test_names_are_one_line_that_can_be_seen(given_name: str) -> None:
    name = one_line(given_name)
    assert name.isprintable()
    assert name == name.strip()
    assert "  " not in name
    assert one_line(name) == name


@given(st.text("abc <>&#é漢😀", min_size=1))
def test_names_are_not_reworded(given_name: str) -> None:
    assert one_line(given_name) == " ".join(given_name.split())


def test_every_field_is_somebodys() -> None:
    assert {*edit_rules.FIELDS, "filtered"} == set(ModifyUserInput.model_fields)
    assert len(set(edit_rules.FIELDS)) == len(edit_rules.FIELDS)
