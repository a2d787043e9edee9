"""`horde admin`: accounts and roles."""

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path

import click

from horde.cli.services import command_platform
from horde.platform.errors import HordeError
from horde.platform.runtime import Platform
from horde.users import passkeys
from horde.users import service as users
from horde.users.rules import Role

GRANTABLE = {
    "admin": Role.ADMIN,
    "moderator": Role.MODERATOR,
    "trusted": Role.TRUSTED,
    "educator": Role.EDUCATION,
    "special": Role.SPECIAL,
    "service": Role.SERVICE,
    "customizer": Role.CUSTOMIZER,
    "vpn": Role.VPN,
    "flagged": Role.FLAGGED,
}


@click.group()
def admin() -> None:
    """Create accounts and change their roles.

    Works on the database that the settings name, or on the embedded one of a running `horde serve`.
    """


def _kudos(_context: click.Context, _parameter: click.Parameter, value: str) -> Decimal:
    try:
        amount = Decimal(value)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or abs(amount) >= 10**12:
        raise click.BadParameter("must be a number below a trillion")
    return amount


@admin.command("create-user")
@click.argument("name")
@click.option("--kudos", default="0", callback=_kudos, help="Kudos to start with.")
@click.option("--admin", is_flag=True, help="Administers; may put the horde into maintenance.")
@click.option("--moderator", is_flag=True, help="May moderate; trusted too.")
@click.option("--trusted", is_flag=True, help="Is vouched for.")
@click.option("--educator", is_flag=True, help="Teaches: safe images only, 200 requests at once.")
@click.option("--special", is_flag=True, help="May use special payloads and models.")
@click.option("--service", is_flag=True, help="Asks on behalf of its own users.")
@click.option("--customizer", is_flag=True, help="May serve models outside the reference.")
@click.option("--vpn", is_flag=True, help="May run workers behind a VPN.")
def create_user(name: str, kudos: Decimal, **roles: bool) -> None:
    """Create the account NAME and print its API key, which is shown this once only."""
    name = name.strip()
    if not 1 <= len(name) <= 30 or "\0" in name:
        raise click.BadParameter("A name has 1 to 30 characters.")
    held = [GRANTABLE[role] for role, given in roles.items() if given]
    with command_platform() as platform:
        user, api_key = users.create_user(platform, name, roles=held, amount=kudos)
    click.echo(f"{user.alias}\nAPI key: {api_key}")


@admin.command("set-role")
@click.argument("user_id", type=click.IntRange(min=1))
@click.argument("role", type=click.Choice(sorted(GRANTABLE)))
@click.option("--off", is_flag=True, help="Take the role away instead.")
def set_role(user_id: int, role: str, off: bool) -> None:
    """Give the account USER_ID a role, or take it away."""
    with command_platform() as platform:
        try:
            user = users.set_role(platform, user_id, GRANTABLE[role], not off)
        except HordeError as error:
            raise click.ClickException(error.message) from error
    click.echo(f"{user.alias} is now: {', '.join(sorted(user.roles)) or 'without roles'}")


@admin.command()
@click.argument("user_id", type=click.IntRange(min=1))
def passkey(user_id: int) -> None:
    """Give the service account USER_ID a new proxy passkey and print it, this once only.

    With it in the header Proxy-Authorization, the service may say in Proxied-For for whose address it calls.
    """
    with command_platform() as platform:
        try:
            new = passkeys.new_passkey(platform, user_id)
        except HordeError as error:
            raise click.ClickException(error.message) from error
    click.echo(f"Passkey: {new}")


def ensure_first_moderator(platform: Platform, key_file: Path) -> None:
    """On a horde without moderators, create one that administers it too; its API key goes to `key_file`
    (mode 0600).

    The file comes first, so that whatever is interrupted leaves no account whose key nobody has.
    """
    if users.has_moderator(platform):
        return
    api_key = users.new_api_key()
    descriptor = os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(api_key + "\n")
    users.create_user(platform, "moderator", roles=[Role.ADMIN, Role.MODERATOR], api_key=api_key)
