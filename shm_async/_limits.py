"""The messages for a reached limit of the process or its user: the limit, and how to raise it.

The errno alone does not tell: EAGAIN from a system call that starts a thread or makes a timer
means a limit, and elsewhere it means "busy".
"""

import resource

__all__ = ["no_descriptor", "no_thread", "no_timer"]


def _soft(limit: int) -> str:
    value = resource.getrlimit(limit)[0]
    return "any number" if value == resource.RLIM_INFINITY else str(value)


def no_descriptor() -> str:
    """Return the message for EMFILE: this process has as many descriptors as it may have."""
    return (
        f"too many open files: RLIMIT_NOFILE allows {_soft(resource.RLIMIT_NOFILE)} descriptors; "
        "raise it (ulimit -n, LimitNOFILE=) or close some"
    )


def no_thread() -> str:
    """Return the message for a thread that could not start, to wait for an event loop."""
    return (
        "no thread can be started to wait for the lock: the limit of threads is reached "
        f"(RLIMIT_NPROC allows {_soft(resource.RLIMIT_NPROC)}; in a container: pids.max), or "
        "there is no memory for a stack (RLIMIT_AS); raise the limit (ulimit -u, TasksMax=, "
        "--pids-limit)"
    )


def no_timer(way_out: str) -> str:
    """Return the message for a timer that could not be made; `way_out` makes waits poll."""
    return (
        "no timer can be made to end the wait: the limit of pending signals is reached "
        f"(RLIMIT_SIGPENDING allows this user {_soft(resource.RLIMIT_SIGPENDING)}), or a sandbox "
        f"forbids timer_create; raise the limit (ulimit -i, LimitSIGPENDING=) or set {way_out} "
        "to have waits poll"
    )
