"""Who may do what: bearer tokens with roles, from the environment or a file.

One token a line: the token, its roles with commas between, and a name for logs and limits:

    # made with: openssl rand -hex 32
    3f1c…  recommend,events  web-shop
    9a77…  operate           monitoring
    c2d8…  read              anna

`recommend` asks for recommendations, `events` sends events, `operate` reads metrics, looks after
the gateway and runs experiments, `read` looks at the console. HYMIREC_TOKENS_FILE names the file;
HYMIREC_TOKENS holds the lines themselves, with semicolons between where that is easier to write.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from hymirec.errors import UsageError

ENV_TOKENS = "HYMIREC_TOKENS"
"""The lines of a tokens file, with semicolons between: who may ask the gateway for what."""
ENV_TOKENS_FILE = "HYMIREC_TOKENS_FILE"
"""A file of them, one token a line."""
SHORTEST = 16
"""Characters of a token: fewer can be guessed."""

Role = Literal["recommend", "events", "operate", "read"]


@dataclass(frozen=True)
class Sender:
    """Who sent a request: a token's name, and what it may do."""

    name: str
    roles: frozenset[str]

    def may(self, role: str) -> bool:
        """Whether a role is among its own; who operates may also look."""
        return role in self.roles or (role == "read" and "operate" in self.roles)


class Tokens:
    """The tokens of one gateway; only their digests are kept."""

    def __init__(self, senders: Mapping[bytes, Sender]) -> None:
        """Take senders by the digests of their tokens."""
        self._senders = dict(senders)

    def __len__(self) -> int:
        return len(self._senders)

    @classmethod
    def from_environment(cls) -> Tokens:
        """Read the tokens that the environment names; none where it names none.

        Raises:
            UsageError: the file cannot be read, or a line is wrong; no message tells a token.
        """
        lines: list[tuple[str, str]] = []
        if path := os.environ.get(ENV_TOKENS_FILE, ""):
            try:
                text = Path(path).read_text()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "no UTF-8 text"
                raise UsageError(f"{ENV_TOKENS_FILE}: {path} cannot be read: {reason}") from error
            lines += [
                (f"{path} line {number}", line)
                for number, line in enumerate(text.splitlines(), start=1)
            ]
        inline = os.environ.get(ENV_TOKENS, "").replace(";", "\n").splitlines()
        lines += [(f"{ENV_TOKENS} entry {number}", line) for number, line in enumerate(inline, 1)]
        senders: dict[bytes, Sender] = {}
        for place, line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                token, sender = _read(place, line)
                senders[digest(token)] = sender
        if lines and not senders:
            raise UsageError(f"{lines[0][0].rpartition(' ')[0].rpartition(' ')[0]} has no token")
        return cls(senders)

    def sender(self, authorization: str) -> Sender | None:
        """Whose an `Authorization` header is; None where it is of nobody."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer":
            return None
        # Looked up by digest: how long that takes tells nothing of the tokens.
        return self._senders.get(digest(token.strip()))

    def by_digest(self, key: bytes) -> Sender | None:
        """Whose the token of a digest is; None where it is of nobody."""
        return self._senders.get(key)

    def digests(self) -> list[bytes]:
        """Of all tokens."""
        return list(self._senders)


def digest(token: str) -> bytes:
    """What is kept of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _read(place: str, line: str) -> tuple[str, Sender]:
    token, *rest = line.split(maxsplit=2)
    if len(token) < SHORTEST:
        raise UsageError(f"{place}: a token has at least {SHORTEST} characters")
    roles = frozenset(rest[0].split(",")) if rest else frozenset()
    if not roles or not roles <= set(get_args(Role)):
        raise UsageError(
            f"{place}: after the token come roles, with commas between: {', '.join(get_args(Role))}"
        )
    name = rest[1].strip() if len(rest) > 1 else place
    return token, Sender(name, roles)
