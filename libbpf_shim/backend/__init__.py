"""The process that owns a session: its clients, its commands, its end."""
