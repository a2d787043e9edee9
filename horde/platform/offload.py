"""Work that keeps a processor busy, kept from holding up the other calls of its process."""

from collections.abc import Callable
from typing import TypeVar

import gevent
from gevent import monkey

T = TypeVar("T")


def offload(work: Callable[[], T]) -> T:
    """The result of `work`, done in a native thread where this process serves with gevent, else right here.

    `work` must not use the database, the cache or anything else that waits cooperatively.
    """
    if not monkey.is_module_patched("threading"):
        return work()
    result: T = gevent.get_hub().threadpool.apply(work)
    return result
