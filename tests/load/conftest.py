"""What is kept when a test under load fails."""

from tests.integration.conftest import keep_logs_and_captures_of_a_failure

__all__ = ["keep_logs_and_captures_of_a_failure"]
