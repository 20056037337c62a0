"""Two releases side by side on one database: rolling upgrade and rollback."""
