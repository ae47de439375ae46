"""Signs calls as Standard Webhooks says: https://www.standardwebhooks.com."""

import base64
import binascii
import hmac
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from math import floor

from upshot.core.limits import SECRET_BYTES_MAX, SECRET_BYTES_MIN

SECRET_PREFIX = "whsec_"


def signature_headers(
    *, message_id: str, at: datetime, body: bytes, secrets: Sequence[str]
) -> dict[str, str]:
    """The headers that identify a call and prove who sent it.

    During a rotation there are two secrets and two signatures, of which a receiver needs one.
    Without a secret the call says which it is, and proves nothing.
    """
    timestamp = str(floor(at.timestamp()))
    headers = {"webhook-id": message_id, "webhook-timestamp": timestamp}
    if secrets:
        signed = b".".join((message_id.encode(), timestamp.encode(), body))
        headers["webhook-signature"] = " ".join(_signature(secret, signed) for secret in secrets)
    return headers


def secret_problem(secret: str) -> str | None:
    """What keeps this text from being a secret, in words that do not repeat it."""
    rule = (
        f"A secret is `{SECRET_PREFIX}` and the base64 of {SECRET_BYTES_MIN} to {SECRET_BYTES_MAX}"
        f' random bytes, as `echo "{SECRET_PREFIX}$(openssl rand -base64 32)"` makes it'
    )
    if not secret.startswith(SECRET_PREFIX):
        return f"{rule}; this one does not begin with `{SECRET_PREFIX}`."
    try:
        key = _key(secret)
    except (binascii.Error, ValueError):
        return f"{rule}; what follows the prefix here is not base64."
    if not SECRET_BYTES_MIN <= len(key) <= SECRET_BYTES_MAX:
        return f"{rule}; this one has {len(key)} bytes."
    return None


def _signature(secret: str, signed: bytes) -> str:
    code = _keyed(secret).copy()
    code.update(signed)
    return f"v1,{base64.b64encode(code.digest()).decode()}"


@lru_cache(maxsize=1_024)
def _keyed(secret: str) -> hmac.HMAC:
    """Taking in a key costs more than signing a short body, and keys are few."""
    return hmac.new(_key(secret), digestmod="sha256")


def _key(secret: str) -> bytes:
    encoded = secret.removeprefix(SECRET_PREFIX).rstrip("=")
    return base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
