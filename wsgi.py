"""The entry that gunicorn loads."""

from horde.app import create_app

app = create_app()
