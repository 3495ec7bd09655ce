"""OHIF, served at our own origin: its files, its page for a tenant, and the token it works with."""
