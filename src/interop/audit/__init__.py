"""The log at work: the background duty that seals it, and the operator's commands."""
