"""Alembic migrations: one history for Postgres and SQLite."""
