"""Python code run in a process of its own that serves with gevent, as the web processes do."""

import subprocess
import sys
import textwrap

PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent
"""


def run_with_gevent(code: str, *, before: str = "") -> None:
    """Run `code`; it must succeed within 20 seconds and print nothing. `before` comes before patching."""
    script = textwrap.dedent(before) + PATCHED + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
