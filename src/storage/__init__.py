"""What is remembered: schema, sessions, object store, jobs. Imports nothing of interop or ai."""
