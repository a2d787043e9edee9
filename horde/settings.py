"""Everything an operator can set, in one typed object.

Values come from, in this order: environment variables, a `.env` file in the working directory,
`config/default.toml`.
"""

from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

ROOT = Path(__file__).resolve().parent.parent


class Settings(BaseSettings):
    """The server's settings; field names in upper case are the environment variables."""

    model_config = SettingsConfigDict(
        env_file=".env", toml_file=ROOT / "config" / "default.toml", extra="ignore"
    )

    host: str
    port: int = Field(ge=0, le=65535)
    var_dir: Path
    """Where embedded services, local images and generated secrets live; relative to the working directory."""
    secret_key: SecretStr | None = None
    """Salts API key hashes and signs local object URLs. Changing it invalidates every key.
    When unset, one is generated once and kept in `var_dir`."""
    public_url: str | None = None
    """Base URL under which clients reach this server, without a trailing slash; else as they addressed it."""
    trusted_proxies: Annotated[frozenset[str], NoDecode] = frozenset()
    """Addresses whose `X-Forwarded-For` is believed (comma-separated in the environment)."""
    service_addresses: Annotated[frozenset[str], NoDecode] = frozenset()
    """Client addresses of known services, which get the relaxed rate limits (comma-separated)."""

    database_url: str | None = None
    """PostgreSQL URL; an embedded server under `var_dir` when unset."""
    redis_url: str | None = None
    """Valkey or Redis URL; an embedded server under `var_dir` when unset."""
    database_pool_size: int = Field(ge=1)
    """Connections per web process: so many for transactions and as many for reading. It is also the number
    of calls that can get on at a time; further ones wait."""

    s3_endpoint_url: str | None = None
    """S3-compatible object store; a folder under `var_dir` when neither this nor `s3_bucket` is set."""
    s3_region: str = "auto"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    s3_bucket: str | None = None

    web_workers: int = Field(ge=1)
    worker: bool = True
    """Whether `horde serve` attaches the built-in sample worker (`WORKER=0` leaves it out)."""

    max_body_mib: int = Field(ge=1)

    outbound_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Networks that addresses named by users may lead to although they are not public (comma-separated)."""
    outbound_ca_file: Path | None = None
    """PEM file of certificate authorities that are trusted, besides the public ones, when calling such
    addresses."""

    ip_checker_url: str | None = None
    """https URL, with `{address}` for an IP address, that answers how probably it belongs to a VPN (0 to 1);
    when unset, all addresses are taken for safe."""
    ip_safe_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = ()
    """Networks that are safe whatever the checker says (comma-separated)."""

    rating_service_url: str | None = None
    """https URL of a service that ratings of images are handed on to; when unset, they are only kept here."""

    paused_notice_webhook: str | None = None
    """https URL of a chat that is told when a worker has been paused for suspicion,"""
    problem_user_webhook: str | None = None
    """and of one that is told who keeps getting results that show abuse of children."""
    kudos_trust_threshold: int | None = Field(None, ge=0)
    """Accounts that have earned more kudos than this under evaluation become trusted; unset: none do."""

    patreon_creator_access_token: SecretStr | None = None
    """With it the horde's supporters on Patreon are known; unset: nobody asks."""
    patreon_campaign_id: str | None = None
    """Only supporters of this campaign count; unset: those of all that the token's owner has."""
    stripe_api_key: SecretStr | None = None
    """With it those who subscribed with a card are known; unset: nobody asks."""
    supporter_tiers: str
    """File that says how many kudos a month supporters get, and where they are looked up."""

    request_ttl_seconds: int
    slow_request_ttl_seconds: int
    """How long a request outlives its last activity when an extra slow worker took part of it."""
    signed_url_seconds: int
    object_lifetime_seconds: int

    anonymous_access: bool
    """Whether people without an account are served: those who send the key 0000000000."""
    max_concurrency_default: int
    max_workers_untrusted: int
    max_workers_trusted: int
    max_workers_per_address: int

    upfront_kudos_on_worker_list: bool = Field(
        False,
        validation_alias=AliasChoices("upfront_kudos_on_worker_list", "horde_upfront_kudos_on_workerlist"),
    )
    """Whether requests that name workers, to have or to avoid them, need kudos upfront."""
    require_matched_targeting: bool = Field(
        False, validation_alias=AliasChoices("require_matched_targeting", "horde_require_matched_targeting")
    )
    """Whether a worker that a request asks for serves it only if it names the sender as a priority user, or
    is the sender's own. The work of requests that name workers has a flat price then."""
    cancel_needs_key: bool = False
    """Whether only whoever sent a request (or a moderator) may cancel it, not everybody who knows its id."""
    model_requirements: Literal["correct", "warn", "reject"]
    """What becomes of settings that do not fit a model, when the request does not say: they are moved to the
    nearest that do, kept with a warning, or refused."""
    model_reference_image: str
    """File name or https URL of the list of known image models,"""
    model_reference_text: str
    """and of that of text models."""
    model_reference_seconds: int = Field(ge=60)
    """How long a reference from a URL is used before it is fetched again; files are read every minute."""
    worker_software: str
    """File that lists what each version of the known worker programs can do."""
    moderation_words: str
    """File of words and symbols about youth that prompts are scanned for besides the moderators' filters, and
    of profane words that names may not hold."""

    horde_title: str
    """What this horde calls itself,"""
    horde_contact_email: str | None = Field(
        None, validation_alias=AliasChoices("horde_contact_email", "horde_email")
    )
    """where people reach its operator,"""
    horde_repository: str = ""
    """where its source code can be had,"""
    horde_logo: str = ""
    """and the URL of its logo."""
    news: str
    """File of what the operator has to tell everybody."""
    documents: str
    """Folder of `welcome.md`, `terms.md`, `privacy.md` and `sponsors.md`: Jinja templates of Markdown."""
    google_site_verification: str | None = Field(
        None, validation_alias=AliasChoices("google_site_verification", "google_verification_string")
    )
    """What Google gave the operator to prove that the site is theirs; the start page shows it to Google."""

    recaptcha_site_key: str | None = None
    recaptcha_secret_key: SecretStr | None = None
    """With both, whoever registers proves first to be human; when unset, nobody has to."""
    captcha_script: str
    """https URL of the program that shows the riddle, and"""
    captcha_check: str
    """of the service that judges its answer: reCAPTCHA's, or those of one that stands in for it."""
    captcha_origins: Annotated[tuple[str, ...], NoDecode]
    """Where that program may load parts from, such as `https://example.com` (comma-separated)."""

    google_client_id: str | None = None
    google_client_secret: SecretStr | None = Field(
        None, validation_alias=AliasChoices("google_client_secret", "gloogle_client_secret")
    )
    """With both, people may log in with their account there; the misspelt name is one that operators have."""
    discord_client_id: str | None = None
    discord_client_secret: SecretStr | None = None
    github_client_id: str | None = None
    github_client_secret: SecretStr | None = None

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_json: bool = False

    @field_validator(
        "trusted_proxies",
        "service_addresses",
        "outbound_networks",
        "ip_safe_networks",
        "captcha_origins",
        mode="before",
    )
    @classmethod
    def _split(cls, value: object) -> object:
        """Lists come from the environment as text with commas."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("model_reference_image", "model_reference_text")
    @classmethod
    def _file_or_https(cls, value: str) -> str:
        if "://" in value and not value.startswith("https://"):
            raise ValueError("a model reference is a file name or a URL that begins with https://")
        return value

    @field_validator(
        "rating_service_url",
        "paused_notice_webhook",
        "problem_user_webhook",
        "captcha_script",
        "captcha_check",
    )
    @classmethod
    def _https(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith("https://"):
            raise ValueError("this URL begins with https://")
        return value

    @field_validator("ip_checker_url")
    @classmethod
    def _https_template(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith("https://") and "{address}" in value):
            raise ValueError("the IP checker's URL begins with https:// and holds {address}")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class passes it
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, dotenv_settings, TomlConfigSettingsSource(settings_cls)

    def config_path(self, name: str) -> Path:
        """Resolve a configured file name: absolute, or relative to the repository."""
        return ROOT / name


@lru_cache
def load_settings() -> Settings:
    """The process's settings, read once."""
    return Settings()
