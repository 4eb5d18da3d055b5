"""What survives: PostgreSQL, its in-memory twin, the journal and the change feed."""
