"""Triggers with several actions, and what Prefect's client knows of deployments and runs."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE triggers ALTER COLUMN deployment DROP NOT NULL",
    "COMMENT ON COLUMN triggers.deployment IS 'null: it has actions instead'",
    "ALTER TABLE runs ADD COLUMN action JSON",
    "COMMENT ON COLUMN runs.action IS 'what the log is told of once the run has ended'",
    """
    CREATE TABLE automations (
        trigger_id UUID PRIMARY KEY REFERENCES triggers (id) ON DELETE CASCADE,
        name TEXT NOT NULL,
        owner_resource TEXT,
        ends_at TIMESTAMP WITH TIME ZONE
    )
    """,
    "CREATE INDEX automations_by_owner ON automations (owner_resource) "
    "WHERE owner_resource IS NOT NULL",
    "CREATE INDEX automations_ending ON automations (ends_at) WHERE ends_at IS NOT NULL",
    "COMMENT ON COLUMN automations.ends_at "
    "IS 'deleted with its owner''s others, and in force until then or taken over'",
    "COMMENT ON TABLE automations IS 'What triggers made as automations have beside the trigger.'",
    """
    CREATE TABLE flows (
        id UUID PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        tags JSON NOT NULL,
        labels JSON NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
    )
    """,
    """
    CREATE TABLE flow_deployments (
        deployment_id UUID PRIMARY KEY REFERENCES deployments (id) ON DELETE CASCADE,
        flow_id UUID NOT NULL REFERENCES flows (id),
        name TEXT NOT NULL,
        details JSON NOT NULL,
        polled_at TIMESTAMP WITH TIME ZONE,
        UNIQUE (flow_id, name)
    )
    """,
    "COMMENT ON TABLE flow_deployments IS 'What deployments of flows have beside the deployment.'",
    "COMMENT ON COLUMN flow_deployments.polled_at IS 'when a runner last asked for its runs'",
    """
    CREATE TABLE flow_runs (
        run_id UUID PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
        flow_id UUID NOT NULL,
        deployment_id UUID,
        name TEXT NOT NULL,
        state_type TEXT NOT NULL,
        state JSON NOT NULL,
        run_count INTEGER NOT NULL DEFAULT 0,
        started_at TIMESTAMP WITH TIME ZONE,
        ended_at TIMESTAMP WITH TIME ZONE,
        running_since TIMESTAMP WITH TIME ZONE,
        running_for DOUBLE PRECISION NOT NULL DEFAULT 0,
        parent_task_run_id UUID,
        idempotency_key TEXT,
        details JSON NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
    )
    """,
    "CREATE INDEX flow_runs_by_parent ON flow_runs (parent_task_run_id) "
    "WHERE parent_task_run_id IS NOT NULL",
    "CREATE UNIQUE INDEX flow_runs_by_idempotency_key ON flow_runs (flow_id, idempotency_key) "
    "WHERE idempotency_key IS NOT NULL",
    "CREATE INDEX flow_runs_ad_hoc ON flow_runs (run_id) WHERE deployment_id IS NULL",
    "COMMENT ON TABLE flow_runs IS 'What runs of flows have beside the run, once a client of the "
    "flow has said something of them.'",
    "COMMENT ON COLUMN flow_runs.running_for IS 'seconds in Running so far, without running_since'",
    """
    CREATE TABLE flow_run_states (
        id UUID PRIMARY KEY,
        run_id UUID NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        number INTEGER NOT NULL,
        state JSON NOT NULL
    )
    """,
    "CREATE INDEX flow_run_states_by_run ON flow_run_states (run_id, number)",
    """
    CREATE TABLE task_runs (
        id UUID PRIMARY KEY,
        flow_run_id UUID REFERENCES runs (id) ON DELETE CASCADE,
        task_key TEXT NOT NULL,
        dynamic_key TEXT NOT NULL,
        name TEXT NOT NULL,
        state_type TEXT NOT NULL,
        state JSON NOT NULL,
        run_count INTEGER NOT NULL DEFAULT 0,
        started_at TIMESTAMP WITH TIME ZONE,
        ended_at TIMESTAMP WITH TIME ZONE,
        details JSON NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        UNIQUE (flow_run_id, task_key, dynamic_key)
    )
    """,
    "COMMENT ON TABLE task_runs "
    "IS 'Those that the client registers: one for each subflow. Others are events alone.'",
    """
    CREATE TABLE flow_run_logs (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        run_id UUID NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        task_run_id UUID,
        at TIMESTAMP WITH TIME ZONE NOT NULL,
        level SMALLINT NOT NULL,
        name TEXT NOT NULL,
        message TEXT NOT NULL
    )
    """,
    "CREATE INDEX flow_run_logs_by_run ON flow_run_logs (run_id, at, id)",
    """
    CREATE TABLE flow_run_inputs (
        run_id UUID NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        sender TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (run_id, key)
    )
    """,
    """
    CREATE TABLE webhook_blocks (
        id UUID PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        deployment_id UUID NOT NULL UNIQUE REFERENCES deployments (id) ON DELETE CASCADE,
        details JSON NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL
    )
    """,
    "COMMENT ON TABLE webhook_blocks "
    "IS 'Each stands for a deployment with a webhook, which the action call-webhook runs.'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("there is no way back; restore a dump")
