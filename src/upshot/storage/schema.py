"""The tables. Hot ones are narrow or append-only; see ARCHITECTURE.md for why each is as it is."""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Double,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, UUID
from sqlalchemy.types import UserDefinedType

metadata = MetaData()


class Xid8(UserDefinedType[int]):
    """A transaction's id, 64 bits, never reused within a cluster."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "xid8"


class PgSnapshot(UserDefinedType[str]):
    """Which transactions had ended at a moment: `xmin:xmax:xip,xip`."""

    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


def _at(name: str, *, nullable: bool = False, default: bool = False) -> Column[Any]:
    return Column(
        name,
        DateTime(timezone=True),
        nullable=nullable,
        server_default=func.now() if default else None,
    )


events_position = Sequence("events_position", metadata=metadata)

events = Table(
    "events",
    metadata,
    Column("position", BigInteger, events_position, nullable=False,
           server_default=events_position.next_value()),
    Column("xid", Xid8, nullable=False, server_default=text("pg_current_xact_id()")),
    _at("received_at", default=True),
    _at("occurred_at"),
    Column("id", UUID, nullable=False),
    Column("follows", UUID),
    Column("size", Integer, nullable=False),
    Column("name", Text, nullable=False),
    Column("resource_id", Text, nullable=False),
    Column("labels", JSON, comment="the resource's other labels"),
    Column("related", JSON),
    Column("payload", JSON, comment="as the client sent it; null is {}"),
    Index("events_in_commit_order", "xid", "position"),
    Index("events_by_id", "id"),
    Index("events_by_resource", text("hashtextextended(resource_id, 0)"), "position"),
    postgresql_partition_by="RANGE (received_at)",
)  # fmt: skip

event_ids = Table(
    "event_ids",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("digest", UUID, nullable=False, comment="of what the client sent"),
    _at("received_at", default=True),
    Index("event_ids_by_age", "received_at"),
)

cursors = Table(
    "cursors",
    metadata,
    Column("name", Text, primary_key=True),
    Column("cluster", BigInteger, nullable=False, comment="pg_control_system().system_identifier"),
    Column("snapshot", PgSnapshot, nullable=False, comment="every transaction in it is evaluated"),
    Column("page_snapshot", PgSnapshot, comment="being read: all that is in it, page by page"),
    Column("page_xid", Xid8, comment="the last row read of page_snapshot"),
    Column("page_position", BigInteger),
    Column("position", BigInteger, nullable=False, comment="the highest evaluated"),
    _at("evaluated_until"),
    Column("version", BigInteger, nullable=False),
)

deployments = Table(
    "deployments",
    metadata,
    Column("name", Text, primary_key=True),
    Column("id", UUID, nullable=False, unique=True),
    Column("description", Text, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("runner", JSON, nullable=False),
    Column("parameters", JSON, nullable=False),
    Column("parameter_schema", JSON(none_as_null=True)),
    Column("max_concurrency", Integer, nullable=False),
    Column("run_timeout", Double, nullable=False, comment="seconds"),
    Column("overlap", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    _at("created_at", default=True),
    _at("updated_at", default=True),
    CheckConstraint("max_concurrency > 0"),
)

breakers = Table(
    "breakers",
    metadata,
    Column("deployment_id", UUID, primary_key=True),
    Column("state", Text, nullable=False),
    _at("since", nullable=True),
    _at("probe_at", nullable=True),
    Column("calls_max", Integer, comment="at once; null: what the deployment allows"),
    Column("buckets", Text, nullable=False,
           comment="JSON: [number, calls, failures] of each half minute"),
    CheckConstraint("state IN ('closed', 'open', 'half-open')"),
    CheckConstraint("(state = 'open') = (probe_at IS NOT NULL)"),
    CheckConstraint("(state = 'closed') = (calls_max IS NULL)"),
    comment="What is known of runners that were called. No foreign key: its lock would meet "
    "others.",
    postgresql_with={"fillfactor": "70"},
)  # fmt: skip

triggers = Table(
    "triggers",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("number", Integer, Identity(always=True), nullable=False, unique=True),
    Column("name", Text, nullable=False, unique=True),
    Column("version", Integer, nullable=False),
    Column("document", JSON, nullable=False, comment="the trigger as written, without its name"),
    Column("deployment", Text, ForeignKey("deployments.name"), index=True,
           comment="null: it has actions instead"),
    Column("enabled", Boolean, nullable=False),
    _at("created_at", default=True),
    _at("updated_at", default=True),
)  # fmt: skip

triggers_in_force = Table(
    "triggers_in_force",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("version", Integer, nullable=False),
    Column("document", JSON, nullable=False),
    Column(
        "since",
        DateTime(timezone=True),
        nullable=False,
        server_default=func.now(),
        comment="enabled without a break; it sees what was received from then on",
    ),
    comment="What the evaluator goes by at its cursor; only the evaluator writes it.",
)

windows = Table(
    "windows",
    metadata,
    Column("trigger_number", Integer, primary_key=True),
    Column("node", SmallInteger, primary_key=True, server_default="0",
           comment="which of the trigger's conditions, in preorder"),
    Column("key_hash", UUID, primary_key=True),
    _at("forgotten_at"),
    Column("key", Text, nullable=False, comment="JSON array of the values of for_each"),
    Column("state", Text, nullable=False),
    Column("started_at", DateTime(timezone=True),
           comment="by event time; null: nothing is open"),
    _at("deadline_at", nullable=True),
    Column("alarms", Boolean, nullable=False, server_default="false",
           comment="the evaluator decides it at deadline_at"),
    Index("windows_due", "deadline_at", postgresql_where=text("alarms")),
    Index("windows_by_deadline", "trigger_number", "deadline_at", "node", "key_hash",
          postgresql_where=text("deadline_at IS NOT NULL")),
    Index("windows_by_age", "trigger_number", "started_at", "node", "key_hash",
          postgresql_where=text("started_at IS NOT NULL")),
    postgresql_with={"fillfactor": "70"},
)  # fmt: skip

held_events = Table(
    "held_events",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("follows", UUID, nullable=False),
    _at("until"),
    comment="Events that wait until the one they follow is evaluated; the log has them.",
)

runs = Table(
    "runs",
    metadata,
    Column("id", UUID, primary_key=True),
    _at("created_at", default=True),
    _at("scheduled_at"),
    _at("finished_at", nullable=True),
    Column("trigger_id", UUID),
    Column("event_id", UUID),
    Column("trigger_version", Integer),
    Column("depth", SmallInteger, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
    Column("deployment", Text, nullable=False),
    Column("trigger", Text),
    Column("key", JSON(none_as_null=True)),
    Column("labels", JSON, nullable=False),
    Column("event", JSON(none_as_null=True)),
    Column("after_id", UUID),
    Column("event_ids", ARRAY(UUID), nullable=False),
    Column("parameters", JSON(none_as_null=True)),
    Column("template", JSON(none_as_null=True), comment="to be rendered before the first attempt"),
    Column("error", Text),
    Column("result", JSON(none_as_null=True)),
    Column("action", JSON(none_as_null=True),
           comment="what the log is told of once the run has ended"),
    CheckConstraint("state IN ('scheduled', 'completed', 'failed', 'cancelled')"),
    CheckConstraint("(state = 'scheduled') = (finished_at IS NULL)"),
    Index("runs_by_age", "created_at", "id"),
    Index("runs_by_deployment", "deployment", "created_at"),
    Index("runs_by_event", "event_id"),
    Index("runs_by_trigger", "trigger", "created_at"),
)  # fmt: skip

run_queue = Table(
    "run_queue",
    metadata,
    Column("run_id", UUID, primary_key=True),
    Column("lease", UUID),
    _at("due_at"),
    _at("lease_until", nullable=True),
    _at("started_at", nullable=True),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("retries_used", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False),
    Column("accepted", Boolean, nullable=False, server_default="false",
           comment="the runner answered 202 and will report"),
    Column("waits", Boolean, nullable=False, server_default="false",
           comment="another run has the slot"),
    Column("deployment", Text, nullable=False),
    Column("worker", Text, comment="who pulled the run; null: Upshot calls its runner"),
    Column("slot", UUID,
           comment="of its deployment, trigger and key, where runs of one key may not overlap"),
    Column("turn", BigInteger, Identity(always=True), nullable=False,
           comment="the order in which runs get their slot"),
    CheckConstraint("state IN ('scheduled', 'running', 'retrying')"),
    CheckConstraint("(lease IS NULL) = (state <> 'running')"),
    Index("run_queue_waiting", "deployment", "due_at",
          postgresql_where=text("lease IS NULL AND NOT waits")),
    Index("run_queue_slot_held", "slot", unique=True,
          postgresql_where=text("NOT waits AND slot IS NOT NULL")),
    Index("run_queue_slot_line", "slot", "turn", postgresql_where=text("slot IS NOT NULL")),
    Index("run_queue_leased", "deployment", "lease_until",
          postgresql_where=text("lease IS NOT NULL")),
    postgresql_with={"fillfactor": "70", "autovacuum_vacuum_scale_factor": "0.01",
                     "autovacuum_vacuum_cost_delay": "0"},
)  # fmt: skip

slots_changed = Table(
    "slots_changed",
    metadata,
    Column("slot", UUID, nullable=False),
    comment="Slots that a run has come to or left; whoever claims next gives them on.",
)

attempts = Table(
    "attempts",
    metadata,
    Column("run_id", UUID, primary_key=True),
    Column("number", Integer, primary_key=True),
    _at("started_at"),
    Column("duration", Double, nullable=False, comment="seconds"),
    Column("status", SmallInteger),
    Column("outcome", Text, nullable=False),
    Column("error", Text),
    Column("response", Text),
    Column("worker", Text, comment="who pulled the run; null: Upshot called its runner"),
)

evaluation_errors = Table(
    "evaluation_errors",
    metadata,
    Column("event_id", UUID, nullable=False),
    Column("trigger_id", UUID),
    _at("at", default=True),
    Column("trigger", Text),
    Column("error", Text, nullable=False),
    Index("evaluation_errors_by_event", "event_id"),
    Index("evaluation_errors_by_age", "at"),
    comment="Events set aside for a trigger, and why; the rest went on.",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False),
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("scopes", ARRAY(Text), nullable=False),
    _at("created_at", default=True),
    _at("revoked_at", nullable=True),
)

automations = Table(
    "automations",
    metadata,
    Column("trigger_id", UUID, ForeignKey("triggers.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, nullable=False),
    Column("owner_resource", Text),
    Column("ends_at", DateTime(timezone=True),
           comment="deleted with its owner's others, and in force until then or taken over"),
    Index("automations_by_owner", "owner_resource",
          postgresql_where=text("owner_resource IS NOT NULL")),
    Index("automations_ending", "ends_at", postgresql_where=text("ends_at IS NOT NULL")),
    comment="What triggers made as automations have beside the trigger.",
)  # fmt: skip

flows = Table(
    "flows",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("tags", JSON, nullable=False),
    Column("labels", JSON, nullable=False),
    _at("created_at", default=True),
    _at("updated_at", default=True),
)

flow_deployments = Table(
    "flow_deployments",
    metadata,
    Column("deployment_id", UUID, ForeignKey("deployments.id", ondelete="CASCADE"),
           primary_key=True),
    Column("flow_id", UUID, ForeignKey("flows.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("details", JSON, nullable=False),
    Column("polled_at", DateTime(timezone=True),
           comment="when a runner last asked for its runs"),
    UniqueConstraint("flow_id", "name"),
    comment="What deployments of flows have beside the deployment.",
)  # fmt: skip

flow_runs = Table(
    "flow_runs",
    metadata,
    Column("run_id", UUID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("flow_id", UUID, nullable=False),
    Column("deployment_id", UUID),
    Column("name", Text, nullable=False),
    Column("state_type", Text, nullable=False),
    Column("state", JSON, nullable=False),
    Column("run_count", Integer, nullable=False, server_default="0"),
    _at("started_at", nullable=True),
    _at("ended_at", nullable=True),
    _at("running_since", nullable=True),
    Column("running_for", Double, nullable=False, server_default="0",
           comment="seconds in Running so far, without running_since"),
    Column("parent_task_run_id", UUID),
    Column("idempotency_key", Text),
    Column("details", JSON, nullable=False),
    _at("updated_at", default=True),
    Index("flow_runs_by_parent", "parent_task_run_id",
          postgresql_where=text("parent_task_run_id IS NOT NULL")),
    Index("flow_runs_ad_hoc", "run_id", postgresql_where=text("deployment_id IS NULL")),
    Index("flow_runs_by_idempotency_key", "flow_id", "idempotency_key", unique=True,
          postgresql_where=text("idempotency_key IS NOT NULL")),
    comment="What runs of flows have beside the run, once a client of the flow has said something "
    "of them.",
)  # fmt: skip

flow_run_states = Table(
    "flow_run_states",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("run_id", UUID, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("state", JSON, nullable=False),
    Index("flow_run_states_by_run", "run_id", "number"),
)

task_runs = Table(
    "task_runs",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("flow_run_id", UUID, ForeignKey("runs.id", ondelete="CASCADE")),
    Column("task_key", Text, nullable=False),
    Column("dynamic_key", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("state_type", Text, nullable=False),
    Column("state", JSON, nullable=False),
    Column("run_count", Integer, nullable=False, server_default="0"),
    _at("started_at", nullable=True),
    _at("ended_at", nullable=True),
    Column("details", JSON, nullable=False),
    _at("created_at", default=True),
    _at("updated_at", default=True),
    UniqueConstraint("flow_run_id", "task_key", "dynamic_key"),
    comment="Those that the client registers: one for each subflow. Others are events alone.",
)

flow_run_logs = Table(
    "flow_run_logs",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("run_id", UUID, ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("task_run_id", UUID),
    _at("at"),
    Column("level", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
    Column("message", Text, nullable=False),
    Index("flow_run_logs_by_run", "run_id", "at", "id"),
)

flow_run_inputs = Table(
    "flow_run_inputs",
    metadata,
    Column("run_id", UUID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("sender", Text),
    _at("created_at", default=True),
)

webhook_blocks = Table(
    "webhook_blocks",
    metadata,
    Column("id", UUID, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column(
        "deployment_id",
        UUID,
        ForeignKey("deployments.id", ondelete="CASCADE"),
        nullable=False,
        unique=True,
    ),
    Column("details", JSON, nullable=False),
    _at("created_at", default=True),
    _at("updated_at", default=True),
    comment="Each stands for a deployment with a webhook, which the action call-webhook runs.",
)
