"""The pages are complete, their links lead somewhere, and what is generated is current."""

import ast
import inspect
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from app.cli.root import app
from app.config import ENV_PREFIX, Settings
from app.errors import HTTP_STATUS
from app.infra import failpoints
from app.integrations import bodies, errors, specs, verification
from app.integrations.base import BaseIntegration
from app.main import build_api
from scripts import generate_docs

from .markdown import DOCS, ROOT, anchors, blocks, links, pages

CONTRACT = (DOCS / "connector-contract.md").read_text()


# Links.


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    broken = []
    for link in links(page):
        if link.startswith(("https://", "http://")):
            continue
        path, _, fragment = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached = {ROOT / "README.md"}
    waiting = list(reached)
    while waiting:
        page = waiting.pop()
        for link in links(page):
            target = (page.parent / link.partition("#")[0]).resolve()
            if target.suffix == ".md" and target.exists() and target not in reached:
                reached.add(target)
                waiting.append(target)
    assert [str(page.relative_to(ROOT)) for page in pages() if page not in reached] == []


def test_pages_name_no_machine_of_ours() -> None:
    for page in pages():
        assert not re.search(r"/(?:root|tmp|work|home/\w+)/", page.read_text()), page


# What is generated.


def test_generated_pages_are_current() -> None:
    stale = [str(path.relative_to(ROOT)) for path in generate_docs.stale(generate_docs.pages())]
    assert stale == [], "Run `make docs`."


def test_generating_twice_gives_the_same() -> None:
    assert generate_docs.pages() == generate_docs.pages()


def test_the_check_names_stale_files_and_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "docs" / "page.md"
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    monkeypatch.setattr(generate_docs, "pages", lambda: {page: "new\n"})
    assert generate_docs.main(["--check"]) == 1
    told = capsys.readouterr().err
    assert "docs/page.md" in told
    assert "make docs" in told
    assert not page.exists()
    assert generate_docs.main([]) == 0
    assert page.read_text() == "new\n"
    assert generate_docs.main(["--check"]) == 0


def test_a_generated_block_leaves_the_rest_of_its_page_alone() -> None:
    begin, end = generate_docs.BEGIN.format(name="x"), generate_docs.END
    page = f"before\n\n{begin}\n\nold\n\n{end}\n\nafter\n"
    assert generate_docs.with_block(page, "x", "new") == page.replace("old", "new")
    with pytest.raises(SystemExit, match="no block 'y'"):
        generate_docs.with_block(page, "y", "new")


def test_every_route_is_in_the_reference_and_every_named_route_exists() -> None:
    page = (DOCS / "reference" / "api.md").read_text()
    routes = {
        f"{method.upper()} {path}"
        for path, methods in build_api().openapi()["paths"].items()
        for method in methods
    }
    assert [route for route in routes if f"### {route}\n" not in page] == []
    assert generate_docs.ROUTE_PROBLEMS.keys() <= routes


def test_problem_codes_are_those_of_the_code() -> None:
    told = set(generate_docs.PROBLEMS)
    raised = set(_problem_codes())
    for verb in ("cancelled", "retried", "resolved"):
        raised.add(f"cannot_be_{verb}")
    assert raised - told == set(), "Add it to PROBLEMS in scripts/generate_docs.py."
    defaults = {error.code for error in HTTP_STATUS} | {"internal_error", "method_not_allowed"}
    assert told - raised - defaults == set(), (
        "PROBLEMS in scripts/generate_docs.py names codes that are gone."
    )
    named = {code for codes in generate_docs.ROUTE_PROBLEMS.values() for code in codes}
    assert named <= told


def _problem_codes() -> Iterator[str]:
    """Codes given to the errors that have an HTTP status."""
    classes = {error.__name__ for error in HTTP_STATUS}
    for path in sorted((ROOT / "app" / "modules").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in classes:
                yield from (
                    keyword.value.value
                    for keyword in node.keywords
                    if keyword.arg == "code" and isinstance(keyword.value, ast.Constant)
                )


# What has to be described.


def test_every_setting_is_described() -> None:
    page = (DOCS / "configuration.md").read_text()
    assert [name for name in Settings.model_fields if f"`{ENV_PREFIX}{name.upper()}`" not in page] == []
    assert all(setting.description for setting in Settings.model_fields.values())


def test_variables_that_pages_name_exist() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields}
    known |= {"TRUNKLINE_URL", "TRUNKLINE_API_KEY", "TRUNKLINE_TWIN_URL", failpoints.NAME, failpoints.GUARD}
    for page in pages():
        named = set(re.findall(r"\bTRUNKLINE_[A-Z]+(?:_[A-Z]+)*\b(?!_)", page.read_text()))
        assert named - known <= {"TRUNKLINE_SECRET"}, page


def test_everything_that_a_connector_class_has_is_described() -> None:
    members = [name for name in vars(BaseIntegration) if not name.startswith("_")]
    members += [name for name in BaseIntegration.__annotations__ if name not in members]
    assert len(members) > 15
    assert [name for name in members if not re.search(rf"`{name}\b", CONTRACT)] == []


@pytest.mark.parametrize("declared", [specs.SecretSpec, specs.ActionSpec, specs.EventSpec, specs.PollSpec])
def test_every_parameter_of_a_declaration_is_described(declared: type) -> None:
    written = re.search(rf"`{declared.__name__}\((.+?)\)`", CONTRACT, re.DOTALL)
    assert written
    shown = [part.split("=")[0].strip() for part in written[1].split(",")]
    assert shown == list(inspect.signature(declared).parameters)


def test_every_check_part_and_body_is_described() -> None:
    for module, protocols in ((verification, {"Verification", "Part"}), (bodies, {"Body"})):
        offered = {name: value for name, value in vars(module).items() if name in module.__all__}
        for name, value in offered.items():
            if isinstance(value, type) and name not in protocols:
                assert re.search(rf"`{name}\(", CONTRACT), f"{module.__name__}.{name}"
    for name in inspect.signature(verification.Hmac).parameters:
        assert f"`{name}`" in CONTRACT, name


def test_every_error_of_the_contract_is_described() -> None:
    bases = {"IntegrationError", "InboundError", "ActionError"}
    named = [
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, errors.IntegrationError) and name not in bases
    ]
    assert [name for name in named if not re.search(rf"`{name}\b", CONTRACT)] == []


def test_every_registration_error_is_described() -> None:
    reasons = set()
    contract = ROOT / "app" / "integrations"
    for path in (contract / "registry.py", *sorted((contract / "verification").glob("*.py"))):
        tree = ast.parse(path.read_text())
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            name = getattr(call.func, "id", "")
            if name == "DeclarationError" or (name == "Broken" and len(call.args) == 3):
                reasons.add(_words(call.args[0 if name == "DeclarationError" else 1]))
    reasons.discard("…")
    assert len(reasons) > 20
    page = CONTRACT.replace("\\|", "|")
    assert [reason for reason in sorted(reasons) if f"| {reason} |" not in page] == []


def _words(node: ast.expr) -> str:
    match node:
        case ast.Constant(value):
            return str(value)
        case ast.JoinedStr(values):
            return "".join(map(_words, values))
        case _:
            return "…"


def test_every_code_of_a_refusal_failure_and_outcome_is_described() -> None:
    webhooks, actions = (DOCS / "webhooks.md").read_text(), (DOCS / "actions.md").read_text()
    contract = ROOT / "app" / "integrations"
    modules = ROOT / "app" / "modules"
    missing = []
    for path, page in (
        *((path, webhooks) for path in sorted((contract / "verification").glob("*.py"))),
        *((path, webhooks) for path in sorted((contract / "bodies").glob("*.py"))),
        (contract / "handshakes.py", webhooks),
        (modules / "webhooks" / "ingress.py", webhooks),
        (modules / "webhooks" / "processor.py", webhooks),
        (contract / "base.py", webhooks),
        (modules / "webhooks" / "parse.py", webhooks),
        (modules / "integrations" / "instances.py", webhooks),
        (modules / "integrations" / "instances.py", actions),
        (modules / "actions" / "runner.py", actions),
    ):
        missing += [f"{path.name}: {code}" for code in sorted(_codes(path)) if f"`{code}`" not in page]
    assert missing == []
    leaves = [error.code for error in errors.ProviderError.__subclasses__()]
    assert [code for code in leaves if f"`{code}`" not in actions] == []


def _codes(path: Path) -> set[str]:
    """Codes that errors in this file are made with: the first argument, or `code`, or `error_code`."""
    makers = {"Refused", "KeyUnavailable", "InvalidBody", "UnhandledWebhook", "InboundError", "Failure"}
    found = set()
    for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
        name = getattr(call.func, "id", "")
        given = [
            k.value for k in call.keywords if k.arg == "error_code" or (k.arg == "code" and "Conn" in name)
        ]
        given += call.args[:1] if name in makers else []
        found |= {node.value for node in given if isinstance(node, ast.Constant)}
    return found


def test_log_lines_that_operators_are_told_of_exist() -> None:
    page = (DOCS / "operations.md").read_text()
    told = re.search(r"a line at `warning` for each of(.+?)\.\n", page, re.DOTALL)
    assert told
    source = "".join(path.read_text() for path in sorted((ROOT / "app").rglob("*.py")))
    names = re.findall(r"`(\w+)`", told[1])
    assert len(names) > 5
    assert [name for name in names if f'log.warning("{name}"' not in _one_line(source)] == []


def _one_line(source: str) -> str:
    return re.sub(r"\(\s+", "(", source)


# Commands and paths that pages name.


def _commands() -> Iterator[tuple[str, list[str]]]:
    for page in pages():
        for block in blocks(page):
            if block.language != "sh":
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                command = line.partition(" #")[0].partition(" | ")[0].partition(" < ")[0].strip()
                if command.startswith("trunkline "):
                    yield f"{block}: {command}", shlex.split(command)[1:]


def test_commands_that_pages_name_have_these_options() -> None:
    root: Any = typer.main.get_command(app)
    named = list(_commands())
    assert len(named) > 60
    for where, words in named:
        command, context, rest = root, root.make_context("trunkline", [], resilient_parsing=True), words
        while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
            name, *rest = rest
            following = command.get_command(context, name)
            assert following is not None, where
            command, context = following, type(context)(following, info_name=name, parent=context)
        if rest[:1] == ["--help"]:
            continue
        try:
            with command.make_context(command.name, list(rest)):
                pass
        except Exception as error:
            pytest.fail(f"{where}: {error}")


def test_paths_that_pages_name_exist() -> None:
    document = json.loads((DOCS / "reference" / "openapi.json").read_text())
    known = [re.sub(r"\{\w+\}", "{}", path) for path in document["paths"]]
    for page in pages():
        for path in re.findall(r"(?:GET|POST|PUT|PATCH|DELETE) (/api/v1/[\w/{}-]+)", page.read_text()):
            assert re.sub(r"\{\w+\}", "{}", path) in known, f"{page.name}: {path}"
