"""Identifiers."""

import secrets
import time
from uuid import UUID


def new_id() -> UUID:
    """A fresh id that sorts by its time of creation and cannot be guessed (UUID version 7, RFC 9562)."""
    value = (time.time_ns() // 1_000_000 & (1 << 48) - 1) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    return UUID(int=value)


def parse_id(value: str) -> UUID | None:
    """The id that a path or body names, or None when it is not one."""
    try:
        return UUID(value) if len(value) == 36 else None
    except ValueError:
        return None
