"""What is signed is what the official library verifies."""

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest
from standardwebhooks.webhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from upshot.core.signatures import secret_problem, signature_headers

OLD = "whsec_" + base64.b64encode(bytes(range(24))).decode()
NEW = "whsec_" + base64.b64encode(bytes(range(100, 132))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(64))).decode()
BODY = '{"parameters": {"name": "Zoë"}}'.encode()


def signed(*secrets: str, at: datetime | None = None) -> dict[str, str]:
    at = datetime.now(UTC) if at is None else at
    return signature_headers(message_id="run-1", at=at, body=BODY, secrets=secrets)


@pytest.mark.parametrize("secret", [OLD, NEW, OTHER, NEW.rstrip("=")])
def test_the_official_library_verifies_a_signature(secret: str) -> None:
    assert Verifier(secret).verify(BODY, signed(secret)) == {"parameters": {"name": "Zoë"}}


@pytest.mark.parametrize("known", [OLD, NEW])
def test_during_a_rotation_either_secret_verifies(known: str) -> None:
    headers = signed(NEW, OLD)
    assert headers["webhook-signature"].count("v1,") == 2
    Verifier(known).verify(BODY, headers)


@pytest.mark.parametrize(
    ("change", "body"),
    [
        ({"webhook-id": "run-2"}, BODY),
        ({"webhook-timestamp": str(int(datetime.now(UTC).timestamp()) - 60)}, BODY),
        ({}, BODY + b" "),
    ],
)
def test_a_changed_call_does_not_verify(change: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookVerificationError):
        Verifier(NEW).verify(body, signed(NEW) | change)


def test_another_secret_does_not_verify() -> None:
    with pytest.raises(WebhookVerificationError):
        Verifier(OTHER).verify(BODY, signed(NEW, OLD))


def test_the_time_is_the_same_instant_in_every_time_zone() -> None:
    at = datetime.now(UTC)
    elsewhere = at.astimezone(timezone(timedelta(hours=5, minutes=30)))
    assert signed(NEW, at=elsewhere) == signed(NEW, at=at)
    Verifier(NEW).verify(BODY, signed(NEW, at=elsewhere))


def test_without_a_secret_a_call_is_named_and_not_signed() -> None:
    at = datetime(2026, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC)
    assert signed(at=at) == {"webhook-id": "run-1", "webhook-timestamp": "1767225600"}


@pytest.mark.parametrize("secret", [OLD, NEW, OTHER, NEW.rstrip("=")])
def test_a_secret_of_24_to_64_bytes_is_accepted(secret: str) -> None:
    assert secret_problem(secret) is None


@pytest.mark.parametrize(
    ("secret", "says"),
    [
        ("correct horse battery staple", "does not begin"),
        (NEW.removeprefix("whsec_"), "does not begin"),
        ("whsec_" + "?" * 40, "not base64"),
        ("whsec_" + "-_" * 20, "not base64"),
        ("whsec_" + "é" * 40, "not base64"),
        ("whsec_" + "A" * 41, "not base64"),
        ("whsec_", "has 0 bytes"),
        ("whsec_" + base64.b64encode(bytes(23)).decode(), "has 23 bytes"),
        ("whsec_" + base64.b64encode(bytes(65)).decode(), "has 65 bytes"),
    ],
)
def test_a_bad_secret_is_refused_with_the_rule_and_without_itself(secret: str, says: str) -> None:
    problem = secret_problem(secret)
    assert problem is not None
    assert says in problem
    assert "openssl rand" in problem
    assert secret == "whsec_" or secret.removeprefix("whsec_") not in problem
