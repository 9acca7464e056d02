"""C10 and C12."""

import pytest

from app.checks import outbound

from .conftest import Acme, findings, messages, skipped

BOUND = 'self.http = http.bind(settings.base_url, headers={"X-Key": api_key}, redact=[api_key])'


def explained(body: str) -> tuple[tuple[str, str, str], ...]:
    """The changes that make the connector judge answers itself."""
    judge = "from app.integrations.errors import *\n\n\ndef explain(response):\n" + body
    return (
        ("connector.py", "class AcmeConnector", f"{judge}\n\n\nclass AcmeConnector"),
        ("connector.py", BOUND, BOUND.replace("redact=", "explain=explain, redact=")),
    )


@pytest.mark.parametrize("code", ["C10", "C12"])
def test_a_plain_connector_passes(acme: Acme, code: str) -> None:
    assert messages(code, acme()) == []


def test_a_page_of_a_proxy_is_no_answer(acme: Acme) -> None:
    change = ("schemas.py", "except ValueError:", "except KeyError:")
    assert messages("C10", acme(change)) == [
        "create_order raises JSONDecodeError at schemas.py:26 when the provider gives a page of a proxy."
    ]


def test_a_connector_that_asks_for_nothing_is_left_alone(acme: Acme) -> None:
    subject = acme(
        ("connector.py", "async def check", "async def look"),
        ("connector.py", "actions = [", "no_actions = ["),
    )
    assert skipped("C10", subject) == "it asks its provider for nothing"


# C10


def test_an_outage_taken_for_a_bad_key_breaks_the_contract(acme: Acme) -> None:
    body = "    return AuthenticationFailed('no') if response.status_code in (401, 403, 503) else None"
    found = [f for f in findings("C10", acme(*explained(body))) if f.level == "contract"]
    assert [finding.message for finding in found] == [
        "create_order raises AuthenticationFailed when the provider gives 503.",
        "check raises AuthenticationFailed when the provider gives 503.",
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("    return Rejected('no')", "raises Rejected when the provider gives 401."),
        ("    return Rejected('no')", "raises Rejected when the provider gives 429 (Retry-After: 7)."),
        ("    return Rejected('no')", "raises Rejected when the provider gives 500."),
        ("    return Unavailable('no')", "raises Unavailable when the provider gives 422."),
        (
            "    return RateLimited('no', retry_after=99) if response.status_code == 429 else None",
            "raises RateLimited with retry_after=99 when the provider gives 429 (Retry-After: 7).",
        ),
    ],
)
def test_a_failure_taken_for_another_is_found(acme: Acme, body: str, problem: str) -> None:
    found = {finding.message: finding for finding in findings("C10", acme(*explained(body)))}
    assert found[f"create_order {problem}"].level is None
    assert found[f"create_order {problem}"].about == "create_order"


def test_another_client_is_told_what_its_errors_should_be(acme: Acme) -> None:
    """One with httpx2 alone: the stand-in answers it, and its errors are not the contract's."""
    change = (
        "connector.py",
        '        await self.http.get("/me")',
        "        import httpx2\n        async with httpx2.AsyncClient() as client:\n"
        '            (await client.get("https://api.acme.example/me")).raise_for_status()',
    )
    found = [message for message in messages("C10", acme(change)) if message.startswith("check")]
    assert "check raises HTTPStatusError at connector.py:48 when the provider gives 401." in found
    assert "check raises ReadTimeout at connector.py:48 when the provider gives a timeout." in found


def test_a_failure_that_is_swallowed_is_found(acme: Acme) -> None:
    change = (
        "connector.py",
        '        return read(await self.http.post("/orders", json=data.model_dump()))',
        "        import contextlib\n        with contextlib.suppress(Exception):\n"
        '            await self.http.post("/orders")',
    )
    found = messages("C10", acme(change))
    assert "create_order succeeds when the provider gives 500." in found
    assert "create_order succeeds when the provider gives a timeout." in found


def test_what_may_be_repeated_may_find_nothing_left_to_do(acme: Acme) -> None:
    change = (
        "connector.py",
        '        return read(await self.http.post("/orders", json=data.model_dump()))',
        "        from app.integrations.errors import Rejected\n        try:\n"
        '            await self.http.post("/orders")\n        except Rejected as error:\n'
        "            if error.status != 404:\n                raise",
    )
    idempotent = ("connector.py", "result=Created", 'result=Created, effect="idempotent"')
    assert messages("C10", acme(change, idempotent)) == []


def test_an_action_that_asks_nobody_is_found(acme: Acme) -> None:
    change = (
        "connector.py",
        "        return read(await self",
        "        return {}\n        return read(await self",
    )
    [finding] = findings("C10", acme(change))
    assert finding.message == "create_order ends without asking the provider."
    assert "acme/tests/actions/create_order.json" in finding.remedy


def test_an_action_that_refuses_what_was_made_up_is_found_with_its_words(acme: Acme) -> None:
    refusing = (
        "        from app.integrations.errors import Rejected\n        raise Rejected('No shop is set.')\n"
    )
    change = ("connector.py", "        return read(await self", f"{refusing}        return read(await self")
    [finding] = findings("C10", acme(change))
    assert finding.message == "create_order raises Rejected (No shop is set.) without asking the provider."


def test_the_smallest_payload_that_is_sent_is_found(acme: Acme) -> None:
    """A handler may want what its model leaves open."""
    field = 'shop: str | None = Field(default=None, description="Whose")\n    amount: int = Field(ge=100,'
    refusing = "        if data.shop is None:\n            raise ValueError('no shop')\n"
    change = ("connector.py", "        return read(await self", f"{refusing}        return read(await self")
    assert messages("C10", acme(("schemas.py", "amount: int = Field(ge=100,", field), change)) == []


def test_a_payload_can_be_given(acme: Acme) -> None:
    strict = 'reference: str = Field(min_length=3, description="Ours")\n'
    strict += '    amount: int = Field(ge=100, description="In cents")'
    handler = '        assert data.reference == "R-7"\n        return read(await self'
    changes = (
        ("schemas.py", 'amount: int = Field(ge=100, description="In cents")', strict),
        ("connector.py", "        return read(await self", handler),
    )
    given = {"tests/actions/create_order.json": '{"reference": "R-7", "amount": 100}'}
    assert messages("C10", acme(*changes, files=given)) == []


@pytest.mark.parametrize("given", [None, "{", '{"amount": 5}'])
def test_a_payload_that_is_missing_or_wrong_is_asked_for(acme: Acme, given: str | None) -> None:
    impossible = ("schemas.py", "ge=100, ", "ge=100, le=99, ")
    files = {"tests/actions/create_order.json": given}
    found = messages("C10", acme(impossible, files=files))
    assert found == ["no payload of the action create_order can be made up, or its example does not fit."]


def test_polls_are_asked_too(acme: Acme) -> None:
    change = (
        "connector.py",
        "    async def check",
        "    async def look(self, cursor):\n"
        "        try:\n            await self.http.get('/changes')\n        except Exception:\n"
        "            return [], cursor\n\n    async def check",
    )
    declared = (
        "connector.py",
        "    events = [",
        '    polls = [PollSpec("changes", 60, "look")]\n    events = [',
    )
    imported = ("connector.py", "EventSpec, SecretSpec", "EventSpec, PollSpec, SecretSpec")
    found = messages("C10", acme(change, declared, imported))
    assert "changes succeeds when the provider gives 401." in found


# C12


@pytest.mark.parametrize(
    "way",
    [
        "__import__('urllib.request').request.urlopen('http://api.acme.example/me')",
        "__import__('socket').create_connection(('192.0.2.1', 80))",
        "await __import__('asyncio').open_connection('192.0.2.1', 80)",
    ],
)
def test_a_way_past_the_stand_in_is_found(acme: Acme, way: str) -> None:
    [finding] = findings(
        "C12", acme(("connector.py", '        await self.http.get("/me")', f"        {way}"))
    )
    assert finding.about in ("api.acme.example", "192.0.2.1")
    assert finding.message.startswith(f"it connects to {finding.about} past ConnectorHttp")


@pytest.mark.parametrize("word", ["enable_socket", "allow_hosts", "socket_enabled"])
def test_tests_that_open_the_network_are_found(acme: Acme, word: str) -> None:
    files = {"tests/test_live.py": f"import pytest\n\n\n@pytest.mark.{word}\ndef test_live(): ...\n"}
    assert messages("C12", acme(files=files)) == [f"test_live.py lets its tests use the network ({word})."]


def test_every_kind_of_failure_has_a_case() -> None:
    assert {"401", "403", "429", "500", "timeout"} <= {case.name for case in outbound.CASES}
