"""Common mistakes with regions and holds, and messages that name the right call.

Type checkers do not see these methods, so they report the mistake themselves.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

__all__ = ["NoAwait", "NotASequence", "is_such", "not_held", "upgrade_forgotten"]


def is_such(asked: Callable[[object], bool], function: object) -> bool:
    """Tell whether `asked` is true of a function, or of the `__call__` of an object.

    `asked` may be inspect.iscoroutinefunction, which itself examines only functions and methods.
    """
    return asked(function) or asked(getattr(type(function), "__call__", None))  # noqa: B004  # which one, not whether


class NoAwait:
    """A base that explains ``await region.write_lock()``: a hold is no coroutine."""

    __slots__ = ()
    _instead: ClassVar[str] = (
        "`async with region.write_lock() as view:` (or read_lock), or keep the hold: "
        "`await hold.acquire()`, and hold.release() in the end"
    )

    if not TYPE_CHECKING:

        def __await__(self) -> NoReturn:
            # Acquiring here would be worse: the caller would get the view, but no hold to release.
            raise TypeError(f"{self!r} cannot be awaited: write {self._instead}")


class NotCalledSo:
    """A missing attribute that users expect; the error names the one to use."""

    __slots__ = ("instead", "name")

    def __init__(self, instead: str) -> None:
        self.instead = instead

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owned: object, owner: type) -> NoReturn:
        raise AttributeError(f"{owner.__name__!r} has no attribute {self.name!r}: {self.instead}")


class NotASequence:
    """A base that explains the use of a Region in place of its lock or its memory."""

    __slots__ = ()

    if not TYPE_CHECKING:
        # Python finds each of these by name on the class. A __getattr__ would slow down every
        # attribute of a region, its locks included.
        lock = NotCalledSo("use read_lock() or write_lock(), with `async with` or `with`")
        acquire = NotCalledSo("use `hold = region.write_lock()`, and `await hold.acquire()`")
        release = NotCalledSo("keep `hold = region.write_lock()`, and call hold.release()")
        buf = NotCalledSo("use the view of a lock's block, or `buffer`, which takes no lock")
        view = NotCalledSo("a lock yields a view: `async with region.read_lock() as view:`")
        size = NotCalledSo("use len(region) for the elements, `nbytes` for the bytes")

        def __init__(self, *arguments: Any, **_options: Any) -> None:
            given = ", ".join(map(repr, arguments)) or "name, length"
            raise TypeError(
                f"a Region is not made by calling it: use Region.open({given}), which creates it "
                "or attaches to it; or Region.create, Region.attach or Region.temporary"
            )

        def __getitem__(self, _index: object) -> NoReturn:
            raise _no_elements(self)

        def __setitem__(self, _index: object, _value: object) -> NoReturn:
            raise _no_elements(self)


def _no_elements(region: object) -> TypeError:
    """Return the error for an index; Python's ``for`` and ``in`` ask for the element 0, too."""
    return TypeError(
        f"{region!r} has no elements itself, only its memory has: take a lock and use its view "
        "(`async with region.read_lock() as view:`, or `with`), or copy it with snapshot()"
    )


def not_held(hold: object) -> RuntimeError:
    """Return the error for a hold that holds nothing."""
    return RuntimeError(
        f"{hold!r} is not held: acquire it first; if you called acquire(), you forgot `await` "
        "(a thread calls acquire_blocking())"
    )


def upgrade_forgotten(hold: object) -> RuntimeError:
    """Return the error for a hold whose `upgrade` was called, but never awaited."""
    return RuntimeError(
        f"{hold!r} was not upgraded and still reads: you forgot `await` in front of hold.upgrade()"
    )
