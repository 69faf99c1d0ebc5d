"""Signatures, by the published vector and by the reference implementation."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from service.webhooks.signing import new_secret, signature, signed_headers, verify_signature

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ID, TIMESTAMP, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
SIGNATURE = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_published_vector() -> None:
    assert signature(SECRET, ID, str(TIMESTAMP), BODY) == SIGNATURE
    headers = {"webhook-id": ID, "webhook-timestamp": str(TIMESTAMP), "webhook-signature": SIGNATURE}
    assert signed_headers([SECRET], ID, TIMESTAMP, BODY) == headers
    assert verify_signature(SECRET, headers, BODY)


def test_a_secret_is_32_random_bytes() -> None:
    assert new_secret() != new_secret()
    assert new_secret().startswith("whsec_")
    assert len(new_secret()) == len("whsec_") + 44


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_the_reference_implementation_verifies_what_is_signed(content: object) -> None:
    body, secret = json.dumps(content).encode(), new_secret()
    headers = signed_headers([secret], "msg_1", int(datetime.now(UTC).timestamp()), body)
    assert Webhook(secret).verify(body, headers) == content
    assert verify_signature(secret, headers, body)


def test_either_of_two_secrets_verifies() -> None:
    old, new = new_secret(), new_secret()
    headers = signed_headers([new, old], "msg_1", int(datetime.now(UTC).timestamp()), BODY)
    for secret in (old, new):
        assert Webhook(secret).verify(BODY, headers)
        assert verify_signature(secret, headers, BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(new_secret()).verify(BODY, headers)


@pytest.mark.parametrize(
    "wrong",
    [
        {"webhook-id": "msg_2"},
        {"webhook-timestamp": "1614265331"},
        {"webhook-timestamp": "never"},
        {"webhook-signature": ""},
        {"webhook-signature": SIGNATURE.replace("v1", "v2")},
        {"webhook-signature": "v1,\xff"},
    ],
)
def test_anything_else_is_not_signed(wrong: dict[str, str]) -> None:
    headers = signed_headers([SECRET], ID, TIMESTAMP, BODY)
    assert not verify_signature(SECRET, {**headers, **wrong}, BODY)
    assert not verify_signature(SECRET, headers, BODY + b" ")
    assert not verify_signature(new_secret(), headers, BODY)
    assert not verify_signature(SECRET, {}, BODY)
