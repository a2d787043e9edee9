from collections.abc import Callable
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horde.platform.errors import BadRequest, Forbidden, HordeError
from horde.workers import rules
from horde.workers.rules import Room

INVITE_ONLY, UNTRUSTED, TRUSTED, HERE = (
    "WorkerInviteOnly",
    "TooManyWorkers",
    "TooManyWorkersTrusted",
    "TooManySameIPs",
)


def refusal(check: Callable[[], object]) -> str | None:
    """The code of the error that `check` raises."""
    try:
        check()
    except HordeError as error:
        return error.rc
    return None


class TestRoom:
    @given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.booleans(), st.booleans())
    def test_one_more_worker(
        self, workers: int, here: int, invited: int, trusted: bool, invite_only: bool
    ) -> None:
        """With the limits that are set when nothing is changed."""
        here = min(here, workers)
        most, most_here = (21, 21) if trusted else (4, 4)
        expected = None
        if invite_only and workers >= invited:
            expected = INVITE_ONLY
        elif workers >= most and workers >= invited:
            expected = TRUSTED if trusted else UNTRUSTED
        elif here >= most_here and here >= invited:
            expected = HERE
        room = Room(workers, here, invited, trusted, most, most_here)
        assert refusal(lambda: rules.check_room(room, invite_only=invite_only)) == expected

    def test_whoever_is_refused_is_told_the_true_numbers(self) -> None:
        with pytest.raises(Forbidden, match="7 workers, and 7 is the most"):
            rules.check_room(Room(7, 0, 7, False, 4, 4), invite_only=False)
        with pytest.raises(Forbidden, match=r"2 of your workers .* 2 is the most"):
            rules.check_room(Room(3, 2, 0, False, 4, 2), invite_only=False)

    def test_first_and_further_workers_are_refused_in_other_words(self) -> None:
        with pytest.raises(Forbidden, match=r"^New workers need an invitation"):
            rules.check_room(Room(0, 0, 0, True, 21, 21), invite_only=True)
        with pytest.raises(Forbidden, match=r"^You have 2 workers"):
            rules.check_room(Room(2, 0, 2, True, 21, 21), invite_only=True)


MISLEADING = frozenset(
    chr(code)
    for codes in (range(32), range(127, 160), (0x2028, 0x2029), range(0x202A, 0x202F), range(0x2066, 0x206A))
    for code in codes
)
"""Characters that end lines, control, or change the direction of writing."""


class TestNames:
    @given(st.text(max_size=120) | st.text(st.sampled_from(["a", " ", *sorted(MISLEADING)]), max_size=5))
    def test_they_are_trimmed_or_refused(self, name: str) -> None:
        expected = None
        if not visible(name):
            expected = "BadRequest"
        elif len(name.strip()) > 100:
            expected = "TooLongWorkerName"
        elif MISLEADING & set(name.strip()):
            expected = "BadRequest"
        assert refusal(lambda: rules.check_name(name)) == expected
        if expected is None:
            assert rules.check_name(name) == name.strip()


def visible(name: str) -> str:
    return "".join(character for character in name if character.isprintable() and not character.isspace())


class TestRefusedWords:
    @given(st.lists(st.text(max_size=120), max_size=220))
    def test_words_are_kept_whole_and_once(self, words: list[str]) -> None:
        kept = rules.clean_blacklist(words)
        assert len(kept) == len(set(kept)) <= 200
        assert "" not in kept
        expected = {word.strip().lower() for word in words[:200]}
        assert {word for word in expected if 0 < len(word) <= 100} <= set(kept)
        assert all(any(word.startswith(each) for word in expected) for each in kept)


class TestPriorityUsernames:
    @given(st.lists(st.tuples(st.text(), st.integers(0, 10**18 - 1)), max_size=60))
    def test_the_numbers_of_the_first_fifty_count(self, names: list[tuple[str, int]]) -> None:
        given_names = [f"{alias}#{number}" for alias, number in names]
        rules.check_priority_usernames(given_names)
        assert rules.priority_user_ids(given_names) == [number for _, number in names[:50]]

    @given(st.text().filter(lambda text: not text.strip().isdigit()))
    def test_no_number(self, text: str) -> None:
        with pytest.raises(BadRequest) as error:
            rules.priority_user_ids([f"somebody#{text.replace('#', '')}x"])
        assert error.value.rc == "InvalidPriorityUsername"

    @pytest.mark.parametrize("name", ["somebody", "", "12"])
    def test_no_mark(self, name: str) -> None:
        with pytest.raises(BadRequest) as error:
            rules.check_priority_usernames(["right#1", name])
        assert error.value.rc == "InvalidPriorityUsername"


@pytest.mark.parametrize(
    ("models", "allow_lora", "reward"), [(1, False, 52), (1, True, 82), (300, True, 680)]
)
def test_an_image_workers_reward_for_ten_minutes(models: int, allow_lora: bool, reward: int) -> None:
    worker = SimpleNamespace(models=["m"] * models, allow_lora=allow_lora)
    assert rules.UPTIME_REWARDS["image"](worker) == reward
