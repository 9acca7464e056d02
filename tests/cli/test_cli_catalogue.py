"""The catalogue tells the same of every connector in the API, on the command line and in the reference."""

from typing import Any

import httpx2
import pytest

from app.integrations.registry import Integration, Registry
from app.integrations.verification import (
    AllOf,
    AnyOf,
    Basic,
    Body,
    BodyDigest,
    BySettings,
    Ecdsa,
    Ed25519,
    HeaderValue,
    Hmac,
    Method,
    SnsSignature,
    SortedForm,
    StandardWebhooks,
    StaticToken,
    Text,
    Timestamp,
    Url,
    in_words,
)
from scripts import generate_docs
from tests.docs.markdown import DOCS

from .conftest import Served, Trunkline

KNOWN = sorted(Registry.discover(entry_point_group=None).integrations.items())
REFERENCE = generate_docs.pages()[DOCS / "reference" / "connectors.md"]
every_connector = pytest.mark.parametrize(
    ("key", "declared"), [pytest.param(*known, id=known[0]) for known in KNOWN]
)


def flat(text: str) -> str:
    """Text without the layout of tables and lines."""
    return " ".join(text.replace("`", "").replace("* |", " |").replace("&lt;", "<").split())


@every_connector
def test_the_api_lists_everything_that_a_connector_declares(
    key: str, declared: Integration, platform: Served
) -> None:
    headers = {"Authorization": f"Bearer {platform.admin_key}"}
    with httpx2.Client(base_url=f"{platform.url}/api/v1", headers=headers) as client:
        shown: Any = client.get(f"/integrations/{key}").json()
        listed = client.get("/integrations").json()["items"]
    assert shown in listed
    connector = declared.connector
    assert [(s["name"], s["required"], s["generated"], s["description"]) for s in shown["secrets"]] == [
        (s.name, s.required, s.generate, s.description) for s in connector.secrets
    ]
    assert [(e["name"], e["description"], e["unique_id"]) for e in shown["events"]] == [
        (e.name, e.description, e.unique_id) for e in connector.events
    ]
    for event, spec in zip(shown["events"], connector.events, strict=True):
        assert event["payload_schema"] == (spec.model.model_json_schema() if spec.model else None)
    kinds = ("name", "description", "effect", "reads", "destructive")
    assert [tuple(action[kind] for kind in kinds) for action in shown["actions"]] == [
        tuple(getattr(spec, kind) for kind in kinds) for spec in connector.actions
    ]
    for action, action_spec in zip(shown["actions"], connector.actions, strict=True):
        assert action["payload_schema"] == action_spec.model.model_json_schema()
        assert (action["result_schema"] is None) is (action_spec.result is None)
    assert shown["polls"] == [
        {"name": poll.name, "every": poll.every, "deadline": poll.deadline} for poll in connector.polls
    ]
    model = connector.settings_model
    assert shown["settings_schema"] == (model.model_json_schema() if model else None)
    words = in_words(connector.verification) if declared.takes_webhooks else None
    assert (shown["verified"], shown["verification"]) == (connector.verification is not None, words)


@every_connector
def test_people_are_shown_the_same(key: str, declared: Integration, cli: Trunkline) -> None:
    shown = flat(cli("integrations", "show", key).stdout)
    page = flat(REFERENCE.partition(f"\n## {key}\n")[2].partition("\n## ")[0])
    connector = declared.connector
    settings = connector.settings_model.model_fields if connector.settings_model else {}
    for told in (shown, page):
        for spec in (*connector.secrets, *connector.events, *connector.actions):
            assert f"{spec.name} " in told
            assert flat(spec.description) in told
        for action in connector.actions:
            assert action.effect in told
        for name in (*settings, *(poll.name for poll in connector.polls)):
            assert f"{name} " in told
        if declared.takes_webhooks:
            assert flat(in_words(connector.verification)) in told


class Peculiar:
    """Shows the moon's phase.

    And more that nobody needs to read.
    """

    secret_names = credential_headers = frozenset[str]()

    def verify(self, *_: Any) -> None: ...


STAMP = Timestamp("X-T", tolerance=60)


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (None, "none; the unguessable URL is all that proves a sender"),
        (StaticToken("X-Token", "shared"), "the secret shared itself, in the header X-Token"),
        (Basic("user", "pass"), "HTTP Basic with the secrets user and pass"),
        (
            Hmac("X-S", "s", signed=(Text("v0:"), HeaderValue("X-T"), Body()), timestamp=STAMP),
            "HMAC-SHA256 with the secret s, as hex in the header X-S, over 'v0:' + the header X-T + the "
            "body, at most 60 s old",
        ),
        (
            Hmac("X-S", "s", algorithm="sha1", signed=(Method(), Url(port="added"), SortedForm())),
            "HMAC-SHA1 with the secret s, as hex in the header X-S, over the method + the URL with its "
            "port + the form's sorted fields",
        ),
        (
            StandardWebhooks("s"),
            "HMAC-SHA256 with the secret s, as base64 in the header webhook-signature, over the header "
            "webhook-id + '.' + the header webhook-timestamp + '.' + the body, at most 300 s old",
        ),
        (
            Ed25519("X-S", "k", signed=(Url(decoded=True),)),
            "Ed25519 with the public key k, as hex in the header X-S, over the URL, decoded",
        ),
        (Ed25519("X-S", "k"), "Ed25519 with the public key k, as hex in the header X-S, over the body"),
        (Ecdsa("X-S", "k"), "ECDSA with the public key k, as base64 in the header X-S, over the body"),
        (SnsSignature("arn"), "Amazon SNS's signature of a message of the topic arn"),
        (
            AnyOf(
                StaticToken("A", "a"), AllOf(StaticToken("B", "b"), BodyDigest("sha"))
            ),
            "the secret a itself, in the header A; or the secret b itself, in the header B and the body's "
            "SHA-256 in the URL's parameter sha",
        ),
        (
            BySettings(lambda _: None, secrets=("s",)),
            "what the connection's settings choose, with the secret s",
        ),
        (Peculiar(), "Shows the moon's phase"),
    ],
)  # fmt: skip
def test_every_check_has_words(check: Any, words: str) -> None:
    assert in_words(check) == words
