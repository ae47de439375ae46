"""Workers that pull, and runs of one key that wait for each other."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE attempts ADD COLUMN worker TEXT",
    "COMMENT ON COLUMN attempts.worker IS 'who pulled the run; null: Upshot called its runner'",
    "ALTER TABLE run_queue "
    "ADD COLUMN worker TEXT, "
    "ADD COLUMN slot UUID, "
    "ADD COLUMN waits BOOLEAN DEFAULT 'false' NOT NULL, "
    "ADD COLUMN turn BIGINT GENERATED ALWAYS AS IDENTITY",
    "COMMENT ON COLUMN run_queue.worker IS 'who pulled the run; null: Upshot calls its runner'",
    "COMMENT ON COLUMN run_queue.slot "
    "IS 'of its deployment, trigger and key, where runs of one key may not overlap'",
    "COMMENT ON COLUMN run_queue.waits IS 'another run has the slot'",
    "COMMENT ON COLUMN run_queue.turn IS 'the order in which runs get their slot'",
    "DROP INDEX run_queue_waiting",
    "CREATE INDEX run_queue_waiting ON run_queue (deployment, due_at) "
    "WHERE lease IS NULL AND NOT waits",
    "CREATE UNIQUE INDEX run_queue_slot_held ON run_queue (slot) "
    "WHERE NOT waits AND slot IS NOT NULL",
    "CREATE INDEX run_queue_slot_line ON run_queue (slot, turn) WHERE slot IS NOT NULL",
    "CREATE TABLE slots_changed (slot UUID NOT NULL)",
    "COMMENT ON TABLE slots_changed "
    "IS 'Slots that a run has come to or left; whoever claims next gives them on.'",
    # Runs leave the queue in many ways. None of them can forget to say so.
    """
    CREATE FUNCTION note_slot() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO slots_changed (slot)
        SELECT CASE WHEN TG_OP = 'DELETE' THEN OLD.slot ELSE NEW.slot END;
        RETURN NULL;
    END
    $$
    """,
    "CREATE TRIGGER slot_left AFTER DELETE ON run_queue "
    "FOR EACH ROW WHEN (OLD.slot IS NOT NULL) EXECUTE FUNCTION note_slot()",
    "CREATE TRIGGER slot_joined AFTER INSERT ON run_queue "
    "FOR EACH ROW WHEN (NEW.waits) EXECUTE FUNCTION note_slot()",
    """
    CREATE TABLE breakers (
        deployment_id UUID PRIMARY KEY,
        state TEXT NOT NULL CHECK (state IN ('closed', 'open', 'half-open')),
        since TIMESTAMP WITH TIME ZONE,
        probe_at TIMESTAMP WITH TIME ZONE,
        calls_max INTEGER,
        buckets TEXT NOT NULL,
        CHECK ((state = 'open') = (probe_at IS NOT NULL)),
        CHECK ((state = 'closed') = (calls_max IS NULL))
    ) WITH (fillfactor = 70)
    """,
    "COMMENT ON TABLE breakers "
    "IS 'What is known of runners that were called. No foreign key: its lock would meet others.'",
    "COMMENT ON COLUMN breakers.calls_max IS 'at once; null: what the deployment allows'",
    "COMMENT ON COLUMN breakers.buckets IS 'JSON: [number, calls, failures] of each half minute'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)


def downgrade() -> None:
    raise RuntimeError("there is no way back; restore a dump")
