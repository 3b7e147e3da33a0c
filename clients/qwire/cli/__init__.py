"""The `qwire` command: a client for people."""
