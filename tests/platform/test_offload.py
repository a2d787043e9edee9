"""Native threads for what is heavy, and room for so much of it only."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from horde.platform.errors import HordeError
from horde.platform.offload import NativeThreads, Room
from tests.platform.gevent_process import run_with_gevent

PICTURE = """
import io
from PIL import Image
from horde.platform.images import as_webp
target = io.BytesIO()
Image.effect_noise((300, 300), 50).save(target, "PNG")
data = target.getvalue()
"""


class TestThreads:
    def test_results_and_errors_come_back(self) -> None:
        threads = NativeThreads(1)
        assert threads.run(lambda: 5) == 5
        with pytest.raises(ZeroDivisionError):
            threads.run(lambda: 1 / 0)
        assert threads.run(lambda: 6) == 6

    def test_no_more_is_done_at_a_time(self) -> None:
        threads, full = NativeThreads(2), threading.Barrier(2)
        running: list[int] = []
        most: list[int] = []

        def work() -> None:
            running.append(1)
            full.wait(10)
            most.append(len(running))
            full.wait(10)
            running.pop()

        with ThreadPoolExecutor(6) as callers:
            for call in [callers.submit(threads.run, work) for _ in range(6)]:
                call.result(10)
        assert max(most) == 2

    def test_other_calls_go_on_meanwhile(self) -> None:
        run_with_gevent(
            """
            from horde.platform.offload import NativeThreads
            begun, over = (monkey.get_original("threading", "Event")() for _ in range(2))
            threads = NativeThreads(1)
            waiting = gevent.spawn(threads.run, lambda: begun.set() or over.wait(10))
            while not begun.is_set():
                gevent.sleep(0.001)
            over.set()
            assert waiting.get(timeout=5)
            """
        )

    def test_errors_are_not_printed(self) -> None:
        """Strangers could fill the log with them."""
        run_with_gevent(
            PICTURE
            + """
from horde.platform.errors import BadRequest
try:
    as_webp(data[:-500], max_pixels=10**6)
except BadRequest as error:
    assert "damaged" in error.message
else:
    raise AssertionError
"""
        )

    def test_they_outlive_a_fork(self) -> None:
        run_with_gevent(
            PICTURE
            + """
import os
result = as_webp(data, max_pixels=10**6)
child = os.fork()
same = as_webp(data, max_pixels=10**6) == result
if child == 0:
    os._exit(0 if same else 1)
assert same and os.waitpid(child, 0)[1] == 0
"""
        )

    def test_pictures_do_not_wait_for_the_threads_that_gevent_resolves_names_in(self) -> None:
        run_with_gevent(
            PICTURE
            + """
over = monkey.get_original("threading", "Event")()
pool = gevent.get_hub().threadpool
calls = [gevent.spawn(pool.apply, over.wait, (10,)) for _ in range(pool.maxsize + 5)]
gevent.sleep(0)
with gevent.Timeout(5):
    as_webp(data, max_pixels=10**6)
over.set()
gevent.joinall(calls, timeout=5, raise_error=True)
"""
        )


class TestRoom:
    def test_what_comes_when_it_is_full_is_refused_at_once(self) -> None:
        room = Room(10, "Too many things")
        with ExitStack() as held:
            held.enter_context(room.hold(9))
            held.enter_context(room.hold(100))  # any room left is enough
            with pytest.raises(HordeError, match="Too many things; try again") as check, room.hold(1):
                raise AssertionError("taken on")
            assert (check.value.status, check.value.rc) == (503, "TooManyRequests")
            assert int(check.value.headers["Retry-After"]) > 0
        with room.hold(1):
            pass

    def test_room_comes_back_after_failures(self) -> None:
        room = Room(1, "Too many things")
        for _ in range(3):
            with pytest.raises(ZeroDivisionError), room.hold(5):
                raise ZeroDivisionError


def test_nobody_takes_more_than_one_place_of_a_room() -> None:
    room = Room(100, "Too many things")
    with room.hold(1, "me"):
        with pytest.raises(HordeError) as refusal, room.hold(1, "me"):
            pass
        assert refusal.value.status == 503
        with room.hold(1, "you"), room.hold(1), room.hold(1):
            pass
    with room.hold(1, "me"):
        pass
