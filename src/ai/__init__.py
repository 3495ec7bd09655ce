"""MONAI pipelines on what arrives: routing, inference in a child process, results."""
