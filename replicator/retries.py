"""Which errors are worth another attempt, when it comes, and when there is none any more."""

from collections.abc import Callable

import tenacity
from tenacity.stop import stop_base

from replicator.errors import ReplicatorError


def is_retryable(error: BaseException) -> bool:
    """Whether trying again may help; anything unknown is not (law 4)."""
    return isinstance(error, ReplicatorError) and error.retryable


def retry_policy(timeout: float, may_retry: Callable[[BaseException], bool] = is_retryable) -> tenacity.AsyncRetrying:
    """Backoff with jitter from 0.5 to 30 seconds. Re-raises the last error.

    ``timeout`` is in seconds from the first failure on, since before it all may have gone well for hours; 0: for ever.
    """
    return tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception(may_retry),
        wait=tenacity.wait_exponential_jitter(multiplier=0.5, max=30, jitter=1),
        stop=_StopAfter(timeout) if timeout else tenacity.stop_never,
        reraise=True,
    )


class _StopAfter(stop_base):
    """When failures have gone on for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first = 0.0

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        failed_at = retry_state.outcome_timestamp or 0.0
        if retry_state.attempt_number == 1:
            self._first = failed_at
        return failed_at - self._first >= self._seconds
