"""The one place of the agent that reads the wall clock."""

from datetime import UTC, datetime


def timestamp() -> str:
    """Now, RFC 3339 in UTC, whole seconds, as metav1.Time."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")  # noqa: TID251


def micro_timestamp() -> str:
    """Now, as metav1.MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # noqa: TID251
