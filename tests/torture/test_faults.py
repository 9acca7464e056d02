"""The checks find what they are for."""

import pytest

from tests.support.faults import Done, action_faults, feed_faults, order_faults, walk_faults

SENT = {"a": 1, "b": 2, "c": 3}


def test_a_faultless_feed_has_no_faults() -> None:
    # c was sent and never acknowledged: it may be there or not.
    assert feed_faults(SENT, {"a", "b"}, [("b", 2), ("a", 1)]) == []
    assert feed_faults(SENT, {"a", "b"}, [("b", 2), ("c", 3), ("a", 1)]) == []


@pytest.mark.parametrize(
    ("acknowledged", "feed", "fault"),
    [
        ({"a", "b"}, [("a", 1)], "acknowledged and lost: b"),
        ({"a"}, [("a", 1), ("a", 1)], "there more than once: a"),
        ({"a"}, [("a", 1), ("x", 1)], "there and never sent: x"),
        ({"a"}, [("a", 2)], "altered: a"),
    ],
)
def test_faults_of_a_feed_are_found(acknowledged: set[str], feed: list[tuple[str, int]], fault: str) -> None:
    assert feed_faults(SENT, acknowledged, feed) == [fault]


def test_an_acknowledgement_that_was_never_given_is_found() -> None:
    claimed = {*SENT, "never sent"}
    assert feed_faults(SENT, claimed, SENT.items()) == ["acknowledged and lost: never sent"]


def test_order_is_strict() -> None:
    assert order_faults([1, 2, 5]) == []
    assert order_faults([1, 3, 2, 2]) == ["out of order: 2 after 3, 2 after 2"]


def test_faults_of_a_walk_are_found() -> None:
    assert walk_faults([1, 2, 4], [1, 2, 4]) == []
    assert walk_faults([1, 4], [1, 2, 4]) == ["skipped: 2"]
    assert walk_faults([1, 2, 4, 2], [1, 2, 4]) == ["out of order: 2 after 4"]
    assert walk_faults([1, 2, 3], [1, 2]) == ["seen and gone: 3"]


@pytest.mark.parametrize("effect", ["once", "idempotent", "checkable"])
def test_true_outcomes_have_no_faults(effect: str) -> None:
    actions = [
        Done("a", "succeeded", effect),
        Done("b", "failed", effect),
        Done("c", "unknown", effect),
        Done("d", "unknown", effect),
    ]
    assert action_faults("abcd", actions, {"a": 1, "c": 1}) == []


@pytest.mark.parametrize(
    ("actions", "effects", "fault"),
    [
        ([], {}, "acknowledged and lost: a"),
        ([Done("a", "failed", "once")] * 2, {}, "requested once, there twice: a"),
        ([Done("a", "queued", "once")], {}, "not ended: a (queued)"),
        ([Done("a", "failed", "once")], {"x": 1}, "effect without an action: x"),
        ([Done("a", "unknown", "once")], {"a": 2}, "happened twice: a"),
        ([Done("a", "succeeded", "idempotent")], {"a": 2}, "happened twice: a"),
        ([Done("a", "succeeded", "checkable")], {"a": 2}, "happened twice: a"),
        ([Done("a", "cancelled", "once")], {"a": 1}, "failed with effect: a"),
        ([Done("a", "succeeded", "once")], {}, "succeeded without effect: a"),
        ([Done("a", "succeeded", "idempotent")], {}, "succeeded without effect: a"),
        ([Done("a", "failed", "idempotent")], {"a": 1}, "failed with effect: a"),
    ],
)
def test_faults_of_actions_are_found(actions: list[Done], effects: dict[str, int], fault: str) -> None:
    assert action_faults("a", actions, effects) == [fault]


def test_of_many_only_the_first_are_named() -> None:
    assert order_faults([9, *range(8, 0, -1)])[0].endswith("4 after 5 and 3 more")
