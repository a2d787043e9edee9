"""Lanes are opened by whoever queues first and closed when nobody needs them."""

from threading import Event, Thread

from horde.generation import sweep
from tests.support import Horde, assert_queue_consistent, in_threads, scalar

SAMPLERS = ("k_euler", "k_euler_a", "k_heun", "lcm")


def test_unused_lanes_are_closed_and_others_stay(horde: Horde) -> None:
    kept = horde.asked(params={"width": 64, "height": 64})
    horde.cancel(horde.asked(params={"width": 512, "height": 512}))
    with horde.platform.engine.begin() as db:
        db.exec_driver_sql("DELETE FROM requests WHERE cancelled")
    assert scalar(horde.platform, "SELECT count(*) FROM lanes") == 2
    assert sweep.close_empty_lanes(horde.platform) == 1
    lanes = scalar(horde.platform, "SELECT lanes FROM requests WHERE id = :id", id=kept)
    assert scalar(horde.platform, "SELECT array_agg(id) FROM lanes") == lanes


def test_a_lane_that_is_closed_while_somebody_queues_loses_nothing(horde: Horde) -> None:
    stop = Event()
    closed: list[int] = []

    def close() -> None:
        while not stop.is_set():
            closed.append(sweep.close_empty_lanes(horde.platform))

    def ask(number: int) -> int:
        side = 64 * (number % 4 + 1)
        sampler = SAMPLERS[number % len(SAMPLERS)]
        request = {"width": side, "height": side, "sampler_name": sampler, "steps": 8}
        response = horde.ask(params=request)
        if response.status_code == 202:
            horde.cancel(response.json["id"])
            with horde.platform.engine.begin() as db:
                db.exec_driver_sql("DELETE FROM requests WHERE cancelled")
        return int(response.status_code)

    closer = Thread(target=close)
    closer.start()
    try:
        answers = in_threads(6, lambda number: [ask(number * 7 + each) for each in range(15)])
    finally:
        stop.set()
        closer.join()
    statuses = {status for several in answers for status in several}
    assert statuses <= {202, 429}, "threads may get in the way of each other's rate limits, no more"
    assert 202 in statuses
    assert sum(closed) > 0
    with horde.platform.read() as db:
        assert_queue_consistent(db)
