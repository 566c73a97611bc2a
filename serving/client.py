"""Asking a model server, over HTTP."""

from __future__ import annotations

from typing import Any

import requests

from hymirec.errors import HymirecError, UsageError
from hymirec.schema import USER_ID


def ask(
    url: str, user_id: str, k: int, *, exclude_seen: bool = True, token: str = ""
) -> dict[str, Any]:
    """Ask for recommendations to one user; the answer is one of `HyMiRecModel.predict`'s.

    A gateway that asks for one is shown the token.

    Raises:
        UsageError: nothing answers at the address, or the request is refused.
        HymirecError: the server cannot answer at present.
    """
    request: dict[str, Any] = {
        "inputs": [{USER_ID: user_id}],
        "params": {"k": k, "exclude_seen": exclude_seen},
    }
    url = url.rstrip("/")
    try:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        response = requests.post(f"{url}/invocations", json=request, headers=headers, timeout=60)
    except requests.ConnectionError as error:
        raise UsageError(f"nothing answers at {url}: start it with `hymirec serve`") from error
    except requests.RequestException as error:
        raise HymirecError(f"no answer from {url}: {error}") from error
    if response.ok:
        try:
            return response.json()["predictions"][0]
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise UsageError(f"what answers at {url} is not a served recommender") from error
    message = f"{url} answers {response.status_code}: {_message(response)}"
    raise UsageError(message) if response.status_code < 500 else HymirecError(message)


def _message(response: requests.Response) -> str:
    """What an error answer says, without the frames MLflow puts around the cause."""
    try:
        answer = response.json()
        message = str(answer["message"] if "message" in answer else answer["error"])
    except (ValueError, KeyError, TypeError):
        message = response.text
    cause = message.rpartition("Error: ")[2].strip().partition("\n")[0]
    return cause or response.reason
