"""Alembic's migrations: the schema's history."""
