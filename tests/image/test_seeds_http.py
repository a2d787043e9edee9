"""Seeds: what requesters write, what workers get for each batch, and what is told in the end."""

from typing import Any

import pytest

from horde.users.rules import Role
from tests.support import Account, Horde


@pytest.fixture
def owner(horde: Horde) -> Account:
    """Owner of trusted workers."""
    return horde.account(Role.TRUSTED, username="Owner")


def seeds(horde: Horde, owner: Account, *amounts: int, **params: Any) -> list[int]:
    """The seeds that a new request's jobs get when workers take so many at a time."""
    amounts = amounts or (1,)
    horde.asked(params={"n": sum(amounts)} | params)
    jobs = [horde.popped(owner, amount=amount) for amount in amounts]
    assert [len(job["ids"]) for job in jobs] == list(amounts)
    assert all(type(job["payload"]["seed"]) is str for job in jobs)
    return [int(job["payload"]["seed"]) for job in jobs]


def number_of(text: str) -> int:
    """The number that a text stands for, as the rule is written down."""
    number = int.from_bytes(text.encode(), "little")
    while number >= 2**32:
        number >>= 32
    return number


class TestWritings:
    @pytest.mark.parametrize(
        ("text", "seed"),
        [
            ("0", 0),
            ("42", 42),
            ("0042", 42),
            ("4294967295", 2**32 - 1),
            ("4294967296", 1),
            (str(2**64), 1),
            ("9" * 600, None),
            ("abc", 6513249),
        ],
    )
    def test_digits_are_numbers(self, horde: Horde, owner: Account, text: str, seed: int | None) -> None:
        if seed is None:
            seed = int(text)
            while seed >= 2**32:
                seed >>= 32
        assert seeds(horde, owner, 1, 1, seed=text) == [seed, seed]

    @pytest.mark.parametrize(
        "text",
        ["-5", "+5", "1.5", "1e3", " 5", "5 ", "0x10", "1_000", "²", "٣", "½", "😀", " ", "x" * 1000],
    )
    def test_everything_else_is_text(self, horde: Horde, owner: Account, text: str) -> None:
        assert seeds(horde, owner, seed=text) == [number_of(text)]

    @pytest.mark.parametrize("value", [5, 5.0, None, True, ["5"], "x" * 1001])
    def test_what_does_not_fit(self, horde: Horde, value: Any) -> None:
        response = horde.ask(params={"seed": value})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"params.seed"}

    @pytest.mark.parametrize("params", [{}, {"seed": ""}])
    def test_without_one_each_pop_draws_another(
        self, horde: Horde, owner: Account, params: dict[str, Any]
    ) -> None:
        drawn = seeds(horde, owner, *[1] * 8, **params)
        assert len(set(drawn)) == 8
        assert all(0 <= seed < 2**32 for seed in drawn)
        assert max(drawn) > 2**16


class TestVariation:
    @pytest.mark.parametrize(
        ("amounts", "steps"), [((1, 1, 1, 1), (4, 3, 2, 1)), ((3, 1), (4, 1)), ((2, 2), (4, 2)), ((4,), (4,))]
    )
    def test_seeds_follow_from_what_was_left(
        self, horde: Horde, owner: Account, amounts: tuple[int, ...], steps: tuple[int, ...]
    ) -> None:
        found = seeds(horde, owner, *amounts, seed="1000", seed_variation=7)
        assert found == [1000 + 7 * left for left in steps]

    def test_the_published_example(self, horde: Horde, owner: Account) -> None:
        assert seeds(horde, owner, 1, 1, seed="abc", seed_variation=3) == [6513255, 6513252]

    def test_they_stay_in_bounds(self, horde: Horde, owner: Account) -> None:
        found = seeds(horde, owner, *[1] * 3, seed=str(2**32 - 1), seed_variation=1000)
        assert found == [1, 1, 1]

    @pytest.mark.parametrize("params", [{}, {"seed": ""}])
    def test_a_missing_seed_is_drawn_once(self, horde: Horde, owner: Account, params: dict[str, Any]) -> None:
        first, second, third = seeds(horde, owner, 2, 1, 1, seed_variation=1000, **params)
        assert (first - second) % 2**32 == 2000
        assert (second - third) % 2**32 == 1000
        assert seeds(horde, owner, seed_variation=1000, **params) != [third]

    def test_a_lost_image_is_made_with_the_seed_of_what_is_left(self, horde: Horde, owner: Account) -> None:
        horde.asked(params={"n": 2, "seed": "10", "seed_variation": 1})
        jobs = [horde.popped(owner) for _ in range(2)]
        assert horde.submitted(owner, jobs[1]["id"], state="faulted") == 0
        jobs.append(horde.popped(owner))
        assert [job["payload"]["seed"] for job in jobs] == ["12", "11", "11"]

    @pytest.mark.parametrize("value", [0, -1, 1001, 1.5, "1", None])
    def test_what_does_not_fit(self, horde: Horde, value: Any) -> None:
        response = horde.ask(params={"seed_variation": value})
        assert response.status_code == 400
        assert response.json["errors"].keys() == {"params.seed_variation"}


def test_what_workers_report_is_told(horde: Horde, owner: Account) -> None:
    request = horde.asked(params={"n": 2, "seed": "5"})
    job = horde.popped(owner, amount=2)
    assert job["payload"]["seed"] == "5"
    for number, each in enumerate(job["ids"]):
        horde.submitted(owner, each, seed=5 + number)
    assert [image["seed"] for image in horde.status(request)["generations"]] == ["5", "6"]
