"""A token: an attribute of an object, whose deletion gives a right to one caller.

``del hold._free`` succeeds for the caller that takes the token, and raises AttributeError for all
others until somebody stores to the attribute again. To store twice does not make two tokens of it.
With the GIL the attribute is a slot: its deletion is one step, which neither another thread nor a
signal handler can interrupt, and costs less than any call. Without the GIL two threads may both
find the slot full, as CPython looks before it locks the object. There the attribute lives in the
object's dictionary, which CPython locks before it looks. No Python code runs in either case.
"""

from sysconfig import get_config_var

__all__ = ["token_slots"]


def token_slots(*names: str) -> tuple[str, ...]:
    """Return what a class adds to its ``__slots__`` in order to have tokens of these names."""
    return ("__dict__",) if get_config_var("Py_GIL_DISABLED") else names
