"""All pages together, for the application."""

from horde.web import account_routes, login_routes, routes
from horde.web.site import site

__all__ = ["account_routes", "login_routes", "routes", "site"]
