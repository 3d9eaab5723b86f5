"""Schema history of the decision log, run by Alembic when a file is behind. Revisions are never edited once released."""
