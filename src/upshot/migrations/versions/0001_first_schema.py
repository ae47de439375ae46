"""The first schema."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE SEQUENCE events_position",
    """
    CREATE TABLE api_keys (
        id UUID NOT NULL,
        name TEXT NOT NULL,
        hash BYTEA NOT NULL,
        scopes TEXT[] NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        revoked_at TIMESTAMP WITH TIME ZONE,
        PRIMARY KEY (id),
        UNIQUE (hash)
    )
    """,
    """
    CREATE TABLE attempts (
        run_id UUID NOT NULL,
        number INTEGER NOT NULL,
        started_at TIMESTAMP WITH TIME ZONE NOT NULL,
        duration DOUBLE PRECISION NOT NULL,
        status SMALLINT,
        outcome TEXT NOT NULL,
        error TEXT,
        response TEXT,
        PRIMARY KEY (run_id, number)
    )
    """,
    "COMMENT ON COLUMN attempts.duration IS 'seconds'",
    """
    CREATE TABLE cursors (
        name TEXT NOT NULL,
        cluster BIGINT NOT NULL,
        snapshot pg_snapshot NOT NULL,
        page_snapshot pg_snapshot,
        page_xid xid8,
        page_position BIGINT,
        position BIGINT NOT NULL,
        evaluated_until TIMESTAMP WITH TIME ZONE NOT NULL,
        version BIGINT NOT NULL,
        PRIMARY KEY (name)
    )
    """,
    "COMMENT ON COLUMN cursors.cluster IS 'pg_control_system().system_identifier'",
    "COMMENT ON COLUMN cursors.snapshot IS 'every transaction in it is evaluated'",
    "COMMENT ON COLUMN cursors.page_snapshot IS 'being read: all that is in it, page by page'",
    "COMMENT ON COLUMN cursors.page_xid IS 'the last row read of page_snapshot'",
    "COMMENT ON COLUMN cursors.position IS 'the highest evaluated'",
    """
    CREATE TABLE deployments (
        name TEXT NOT NULL,
        id UUID NOT NULL,
        description TEXT NOT NULL,
        tags JSON NOT NULL,
        runner JSON NOT NULL,
        parameters JSON NOT NULL,
        parameter_schema JSON,
        max_concurrency INTEGER NOT NULL,
        run_timeout DOUBLE PRECISION NOT NULL,
        overlap TEXT NOT NULL,
        enabled BOOLEAN NOT NULL,
        disabled_reason TEXT,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (name),
        CHECK (max_concurrency > 0),
        UNIQUE (id)
    )
    """,
    "COMMENT ON COLUMN deployments.run_timeout IS 'seconds'",
    """
    CREATE TABLE evaluation_errors (
        event_id UUID NOT NULL,
        trigger_id UUID,
        at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        trigger TEXT,
        error TEXT NOT NULL
    )
    """,
    "CREATE INDEX evaluation_errors_by_age ON evaluation_errors (at)",
    "CREATE INDEX evaluation_errors_by_event ON evaluation_errors (event_id)",
    "COMMENT ON TABLE evaluation_errors "
    "IS 'Events set aside for a trigger, and why; the rest went on.'",
    """
    CREATE TABLE event_ids (
        id UUID NOT NULL,
        digest UUID NOT NULL,
        received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "CREATE INDEX event_ids_by_age ON event_ids (received_at)",
    "COMMENT ON COLUMN event_ids.digest IS 'of what the client sent'",
    """
    CREATE TABLE events (
        position BIGINT DEFAULT nextval('events_position') NOT NULL,
        xid xid8 DEFAULT pg_current_xact_id() NOT NULL,
        received_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        occurred_at TIMESTAMP WITH TIME ZONE NOT NULL,
        id UUID NOT NULL,
        follows UUID,
        size INTEGER NOT NULL,
        name TEXT NOT NULL,
        resource_id TEXT NOT NULL,
        labels JSON,
        related JSON,
        payload JSON
    )
     PARTITION BY RANGE (received_at)
    """,
    "CREATE INDEX events_by_id ON events (id)",
    "CREATE INDEX events_by_resource ON events (hashtextextended(resource_id, 0), position)",
    "CREATE INDEX events_in_commit_order ON events (xid, position)",
    "COMMENT ON COLUMN events.labels IS 'the resource''s other labels'",
    "COMMENT ON COLUMN events.payload IS 'as the client sent it; null is {}'",
    """
    CREATE TABLE run_queue (
        run_id UUID NOT NULL,
        lease UUID,
        due_at TIMESTAMP WITH TIME ZONE NOT NULL,
        lease_until TIMESTAMP WITH TIME ZONE,
        started_at TIMESTAMP WITH TIME ZONE,
        attempt INTEGER DEFAULT '0' NOT NULL,
        retries_used INTEGER DEFAULT '0' NOT NULL,
        state TEXT NOT NULL,
        accepted BOOLEAN DEFAULT 'false' NOT NULL,
        deployment TEXT NOT NULL,
        PRIMARY KEY (run_id),
        CHECK (state IN ('scheduled', 'running', 'retrying')),
        CHECK ((lease IS NULL) = (state <> 'running'))
    )
     WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)
    """,
    "CREATE INDEX run_queue_leased ON run_queue (deployment, lease_until) WHERE lease IS NOT NULL",
    "CREATE INDEX run_queue_waiting ON run_queue (deployment, due_at) WHERE lease IS NULL",
    "COMMENT ON COLUMN run_queue.accepted IS 'the runner answered 202 and will report'",
    """
    CREATE TABLE runs (
        id UUID NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        scheduled_at TIMESTAMP WITH TIME ZONE NOT NULL,
        finished_at TIMESTAMP WITH TIME ZONE,
        trigger_id UUID,
        event_id UUID,
        trigger_version INTEGER,
        depth SMALLINT DEFAULT '0' NOT NULL,
        state TEXT NOT NULL,
        deployment TEXT NOT NULL,
        trigger TEXT,
        key JSON,
        labels JSON NOT NULL,
        event JSON,
        after_id UUID,
        event_ids UUID[] NOT NULL,
        parameters JSON,
        template JSON,
        error TEXT,
        result JSON,
        PRIMARY KEY (id),
        CHECK (state IN ('scheduled', 'completed', 'failed', 'cancelled')),
        CHECK ((state = 'scheduled') = (finished_at IS NULL))
    )
    """,
    "CREATE INDEX runs_by_age ON runs (created_at, id)",
    "CREATE INDEX runs_by_deployment ON runs (deployment, created_at)",
    "CREATE INDEX runs_by_event ON runs (event_id)",
    "CREATE INDEX runs_by_trigger ON runs (trigger, created_at)",
    "COMMENT ON COLUMN runs.template IS 'to be rendered before the first attempt'",
    """
    CREATE TABLE triggers_in_force (
        id UUID NOT NULL,
        number INTEGER NOT NULL,
        version INTEGER NOT NULL,
        document JSON NOT NULL,
        PRIMARY KEY (id)
    )
    """,
    "COMMENT ON TABLE triggers_in_force "
    "IS 'What the evaluator goes by at its cursor; only the evaluator writes it.'",
    """
    CREATE TABLE windows (
        trigger_number INTEGER NOT NULL,
        key_hash UUID NOT NULL,
        forgotten_at TIMESTAMP WITH TIME ZONE NOT NULL,
        key TEXT NOT NULL,
        state TEXT NOT NULL,
        PRIMARY KEY (trigger_number, key_hash)
    )
     WITH (fillfactor = 70)
    """,
    "COMMENT ON COLUMN windows.key IS 'JSON array of the values of for_each'",
    """
    CREATE TABLE triggers (
        id UUID NOT NULL,
        number INTEGER GENERATED ALWAYS AS IDENTITY,
        name TEXT NOT NULL,
        version INTEGER NOT NULL,
        document JSON NOT NULL,
        deployment TEXT NOT NULL,
        enabled BOOLEAN NOT NULL,
        created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
        PRIMARY KEY (id),
        UNIQUE (number),
        UNIQUE (name),
        FOREIGN KEY(deployment) REFERENCES deployments (name)
    )
    """,
    "CREATE INDEX ix_triggers_deployment ON triggers (deployment)",
    "COMMENT ON COLUMN triggers.document IS 'the trigger as written, without its name'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("there is no way back; restore a dump")
