"""Fixtures of small Oxen repositories."""

from oxen_fixtures import configured, history, log, messages, project, run_oxen, shared_history

__all__ = ["configured", "history", "log", "messages", "project", "run_oxen", "shared_history"]
