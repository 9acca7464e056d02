"""All scenarios, in the order in which they are run."""

from . import clock, cluster, crashpoints, kills, memory, poison, power, storage
from .bench import Scenario

SCENARIOS = (
    Scenario(
        "ingest",
        "kill -9 under webhooks and polls",
        kills.kill_under_webhooks,
        breaks=("acknowledge_before_commit", "dedupe_off", "cursor_skips"),
    ),
    Scenario(
        "actions",
        "kill -9 under actions",
        kills.kill_under_actions,
        breaks=(
            "retry_interrupted_once",
            "result_before_send",
            "attempt_not_opened",
            "key_per_attempt",
            "never_asks",
        ),
    ),
    Scenario(
        "failpoints",
        "a crash at each named point",
        crashpoints.crash_at_each_point,
        breaks=("acknowledge_before_commit", "attempt_not_opened"),
    ),
    Scenario(
        "power",
        "power cuts that lose what was not synced",
        power.cut_the_power,
        breaks=("synchronous_normal", "synchronous_off"),
    ),
    Scenario(
        "slow-disk", "every fsync takes long", power.slow_down_the_disk, breaks=("acknowledge_before_commit",)
    ),
    Scenario("full-disk", "the disk is full", storage.fill_the_disk, breaks=("error_on_full_disk",)),
    Scenario("clock", "the clock jumps", clock.move_the_clock, breaks=("dedupe_off",)),
    Scenario(
        "poison",
        "bytes that nobody should send",
        poison.send_poison,
        breaks=("poison_stops_processing", "poison_breaks_ingress"),
    ),
    Scenario("backlog", "a backlog of webhooks", memory.pile_up_webhooks, breaks=("unbounded_backlog",)),
    Scenario(
        "cluster",
        "several nodes over PostgreSQL, all of which may fail",
        cluster.kill_the_nodes,
        breaks=(
            "acknowledge_before_commit",
            "dedupe_off",
            "retry_interrupted_once",
            "feed_unlocked",
            "error_on_full_disk",
        ),
    ),
    Scenario("queue", "a queue of actions", memory.pile_up_actions, breaks=("unbounded_claims",)),
)
