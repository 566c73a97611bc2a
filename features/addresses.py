"""Addresses of servers, as the environment gives them: read, and shown without their password."""

from __future__ import annotations

import json
from urllib.parse import SplitResult, unquote, urlsplit

from hymirec.errors import UsageError

TIMEOUT_SECONDS = 5
"""For a server to take a connection or to answer; a request cannot wait for longer."""


def hide_password(address: str) -> str:
    """Show an address without its password and its parameters."""
    try:
        parts = urlsplit(address)
        user, host = parts.username, parts.netloc.rpartition("@")[2]
    except ValueError:
        return "its value"
    if not parts.scheme or not host:
        return "its value"
    return f"{parts.scheme}://{f'{user}:***@' if user or parts.password else ''}{host}{parts.path}"


def postgresql_url(variable: str, address: str) -> str:
    """Turn `postgresql://user:password@host/database` into what SQLAlchemy takes.

    Args:
        variable: where the address comes from, for the error.
        address: of a database.

    Raises:
        UsageError: it is no such address.
    """
    parts = _split(variable, address, ("postgresql",), "postgresql://")
    url = parts._replace(scheme="postgresql+psycopg").geturl()
    return url if "connect_timeout=" in parts.query else (
        f"{url}{'&' if parts.query else '?'}connect_timeout={TIMEOUT_SECONDS}"
    )  # fmt: skip


def redis_connection(variable: str, address: str) -> str:
    """Turn `redis://user:password@host:port/number`, or `rediss://` for TLS, into Feast's text.

    Raises:
        UsageError: as `postgresql_url`; or the password has a comma, which Feast cannot take.
    """
    parts = _split(variable, address, ("redis", "rediss"), "redis:// or rediss://")
    number = parts.path.strip("/") or "0"
    if not number.isdecimal():
        raise UsageError(f"{variable}: {hide_password(address)} does not end in a database number")
    settings = {
        "db": int(number),
        "socket_timeout": TIMEOUT_SECONDS,
        "socket_connect_timeout": TIMEOUT_SECONDS,
        **({"ssl": True} if parts.scheme == "rediss" else {}),
        **({"username": unquote(parts.username)} if parts.username else {}),
        **({"password": unquote(parts.password)} if parts.password else {}),
    }
    # As JSON, so that a password of digits stays text.
    texts = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    if any("," in text for text in texts):
        raise UsageError(f"{variable}: user and password cannot have a comma")
    return ",".join([f"{parts.hostname}:{parts.port or 6379}", *texts])


def _split(variable: str, address: str, schemes: tuple[str, ...], wanted: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        known = parts.scheme in schemes and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:  # a port that is no number
        known = False
    if not known:
        raise UsageError(f"{variable}: {hide_password(address)} is not a {wanted} address")
    return parts
