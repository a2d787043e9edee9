"""Word that results wait, published over Valkey."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from horde.generation import calls
from horde.generation.calls import Call
from tests.support import Horde

DEMANDS = st.frozensets(st.tuples(st.text(max_size=20), st.uuids(), st.integers(0, 2**128 - 1)), max_size=5)


@given(demands=DEMANDS, size=st.integers(0, 2**40), avoided=st.lists(st.uuids(), max_size=5))
def test_a_call_is_heard_as_it_was_made(
    demands: frozenset[tuple[str, UUID, int]], size: int, avoided: list[UUID]
) -> None:
    call = Call("image", demands, size, avoided, 3, ["one"])
    assert Call.decode(call.encode()) == call
    passed_on = Call.decode(call.passed_on("two", 1).encode())
    assert (passed_on.passed_by, passed_on.results) == (["one", "two"], 1)
    assert passed_on.name != call.name


def test_all_claims_together_are_as_many_as_there_are_results(horde: Horde) -> None:
    call = Call("image", frozenset(), 1, [], 5)
    assert [calls.claim(horde.platform, call, wanted) for wanted in (2, 1, 4, 1)] == [2, 1, 2, 0]
    another = Call("image", frozenset(), 1, [], 5)
    assert calls.claim(horde.platform, another, 5) == 5
