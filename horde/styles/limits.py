"""How often the routes of styles and collections may be called."""

from horde.platform.http import limited

often = limited("90/minute;2/second", relaxed="300/minute;10/second", key="path")
"""For what is read, deleted, or small."""
seldom = limited("20/hour;2/second", relaxed="20/hour;10/second", key="path")
"""For making and changing styles."""
