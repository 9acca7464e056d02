"""The checks, by code."""

from collections.abc import Iterator

from . import documentation, events, layout, outbound, secrecy, verification
from .exemptions import read_exemptions, unreasonable
from .model import Check, Finding
from .run import found
from .subject import ConnectorUnderTest


def _exemptions_are_needed(subject: ConnectorUnderTest) -> Iterator[Finding]:
    """C14."""
    exemptions = read_exemptions(subject)
    if exemptions.problem:
        yield Finding(exemptions.problem, "Correct it.")
    yield from unreasonable(exemptions, CHECKS)
    used: set[str] = set()
    exemptible = [check for check in CHECKS if check.exempt]
    for check in exemptible:
        if any(name.split(" ")[0] == check.code for name in exemptions.reasons):
            used |= exemptions.used(check, found(check, subject).findings)
    for name in exemptions.reasons if subject.integration is not None else ():
        if name not in used and name.split(" ")[0] in {check.code for check in exemptible}:
            yield Finding(
                f"exemption '{name}' is stale: nothing is found that it would be for.",
                "Delete it.",
                about=name,
            )


CHECKS = (
    Check(
        "C01",
        "one connector, named like its folder; importing it only defines things",
        "contract",
        "folder",
        layout.one_connector,
        unloaded=True,
    ),
    Check("C02", "only the known files", "quality", "folder", layout.only_known_files, unloaded=True),
    Check("C03", "imports stay in bounds", "contract", "imports", layout.imports_in_bounds, unloaded=True),
    Check(
        "C04",
        "no secret appears in repr, error, log or event",
        "contract",
        "secrets",
        secrecy.secrets_stay_inside,
        exempt=False,
    ),
    Check(
        "C05",
        "actions, events, secrets and settings are described",
        "quality",
        "descriptions",
        documentation.declarations_are_documented,
    ),
    Check(
        "C06",
        "each event has a fixture, each fixture becomes its event",
        "quality",
        "fixtures",
        events.events_have_fixtures,
    ),
    Check(
        "C07",
        "genuine requests are accepted, others refused",
        "contract",
        "verification",
        verification.genuine_alone_is_accepted,
    ),
    Check(
        "C08",
        "garbage ends in the contract's errors",
        "quality",
        "garbage",
        events.garbage_is_refused_well,
    ),
    Check("C09", "the same delivery gives the same id", "contract", "ids", events.same_delivery_same_id),
    Check(
        "C10", "the provider's failures are told apart", "quality", "failures", outbound.failures_are_typed
    ),
    Check("C11", "the page is whole", "quality", "page", documentation.page_is_whole),
    Check("C12", "nothing needs the network", "quality", "network", outbound.only_http),
    Check("C13", "the level is earned", "quality", "level", documentation.level_is_earned),
    Check(
        "C14",
        "exemptions have a reason and are needed",
        "quality",
        "exemptions",
        _exemptions_are_needed,
        exempt=False,
        unloaded=True,
    ),
)
"""Codes are stable: a check that goes takes its code with it."""
