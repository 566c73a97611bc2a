"""Who looks at the console: a browser sends no bearer token, so it signs in with one once.

The cookie that follows names the token by digest, says until when, and is sealed with a key that is
made of the digest: it needs no memory here, outlives a restart, and ends when the token is
withdrawn. It does not give the token away.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from http.cookies import CookieError, SimpleCookie

from serving.tokens import Sender, Tokens, digest

COOKIE = "hymirec_console"
SECONDS = 12 * 3600
"""A sign-in is good for."""


class Sessions:
    """Signs browsers in with the gateway's tokens, and seals forms against other sites."""

    def __init__(self, tokens: Tokens) -> None:
        """Take the tokens; without any, whoever is on this machine is let in."""
        self._tokens = tokens
        self._unsigned = secrets.token_bytes(32)

    def sign_in(self, token: str) -> str | None:
        """A cookie's value for a token that may read the console; None for any other."""
        sender = self._tokens.sender(f"Bearer {token}")
        if sender is None or not sender.may("read"):
            return None
        key = digest(token.strip())
        until = str(int(time.time()) + SECONDS)
        name = hashlib.sha256(key).hexdigest()
        return f"{name}.{until}.{_seal(key, 'session', name, until)}"

    def sender(self, cookies: str) -> Sender | None:
        """Whose a `Cookie` header is; None where it is of nobody, or no longer."""
        name, until, key = self._read(cookies)
        return self._tokens.by_digest(key) if key and name and until else None

    def form_seal(self, cookies: str) -> str:
        """What a form of this browser has to bring back, which no other site can know."""
        name, until, key = self._read(cookies)
        return _seal(key or self._unsigned, "form", name, until)

    def is_ours(self, cookies: str, seal: str) -> bool:
        """Whether a form was one of this browser's."""
        return hmac.compare_digest(self.form_seal(cookies).encode(), seal.encode())

    def _read(self, cookies: str) -> tuple[str, str, bytes | None]:
        try:
            found = SimpleCookie(cookies).get(COOKIE)
        except CookieError:
            found = None
        name, _, rest = (found.value if found else "").partition(".")
        until, _, seal = rest.partition(".")
        if not until.isdecimal() or float(until) < time.time():
            return "", "", None
        for key in self._tokens.digests():
            if hmac.compare_digest(hashlib.sha256(key).hexdigest().encode(), name.encode()):
                sealed = _seal(key, "session", name, until)
                if hmac.compare_digest(sealed.encode(), seal.encode()):
                    return name, until, key
        return "", "", None


def _seal(key: bytes, *parts: str) -> str:
    return hmac.new(key, "\n".join(parts).encode(), hashlib.sha256).hexdigest()
