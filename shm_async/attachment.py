"""An attachment: a segment, where it is mapped, and how its data lies in it.

How one is made, found, and put in the place of another. What users see of it is a Region.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from . import _native, elements, layouts, segment, sysv
from .elements import DTypeLike
from .errors import RegionReplacedError
from .layouts import Layout, Plan
from .mapping import Mapping
from .segment import Segment
from .terms import Terms

__all__ = ["Attachment", "attach", "check_name", "create", "replace", "replaced", "successor"]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attachment of this process. `segment` is to be closed; the rest goes by itself."""

    segment: Segment
    mapping: Mapping
    plan: Plan

    def control(self) -> _native.Control | None:
        """Its control page, if it is managed; valid as long as the mapping is."""
        return self.mapping.control() if self.plan.layout == "managed" else None

    def view(self) -> memoryview:
        """Its data, as elements."""
        plan = self.plan
        return elements.typed_view(
            self.mapping.view(plan.nbytes, plan.offset), plan.dtype, plan.shape
        )


def check_name(name: str | int) -> str | int:
    """Return a name without its slash, or a key.

    Raises:
        TypeError, ValueError: it can be neither.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        return sysv.check_key(name)
    return segment.check_name(name)  # type: ignore[arg-type]  # it refuses what is no str


def check_layout(layout: Layout, name: str | int | None) -> Layout:
    """Return `layout` if what has that name, or key, can have it.

    Raises:
        TypeError, ValueError: it cannot.
    """
    if layouts.check_layout(layout) == "sized" and not isinstance(name, str):
        raise ValueError("layout 'sized' is for names: nobody's System V segments have a header")
    return layout


def create(
    name: str | int | None,
    shape: tuple[int, ...],
    *,
    dtype: DTypeLike,
    layout: Layout,
    mode: int,
    reserve: bool,
    terms: Terms,
) -> Attachment:
    """Make a segment and map it. Blocks while the kernel reserves the memory."""
    if name is not None:
        name = check_name(name)
    segment.check_mode(mode)
    plan = layouts.plan(
        shape,
        dtype=elements.check_dtype(dtype),
        layout=check_layout(layout, name),
        sparse=not reserve,
    )
    if isinstance(name, str):
        segment.check_size(name, plan.size, reserve=reserve)
        make: Callable[..., tuple[Segment, Mapping]] = segment.create
    else:
        sysv.check_size("" if name is None else sysv.name_of(name), plan.size, reserve=reserve)
        make = sysv.create
    made, mapping = make(
        name,
        plan.size,
        mode=mode,
        reserve=reserve,
        head=plan.head(),
        tail=plan.tail(),
        prepare=lambda made: _map(made, plan, terms),  # before anybody sees it
    )
    return Attachment(made, mapping, plan)


def attach(
    name: str | int,
    shape: tuple[int, ...] | None,
    *,
    dtype: DTypeLike | None,
    layout: Layout | None,
    reserve: bool,
    terms: Terms,
) -> Attachment:
    """Find a segment and map it."""
    name = check_name(name)
    dtype = None if dtype is None else elements.check_dtype(dtype)
    layout = None if layout is None else check_layout(layout, name)
    readonly = terms.readonly
    if isinstance(name, str):
        header = layouts.HEADER.size if layout == "sized" else 0
        found = segment.attach(name, readonly=readonly, owner=terms.owner, header=header)
    else:
        found = sysv.attach(name, readonly=readonly, owner=terms.owner)
    try:
        plan = layouts.recognise(
            found.read, found.size, found.name, shape=shape, dtype=dtype, layout=layout
        )
        if reserve and not readonly and not plan.sparse:
            found.reserve(plan.size)
        return Attachment(found, _map(found, plan, terms), plan)
    except BaseException:
        found.close()
        raise


def _map(found: Segment, plan: Plan, terms: Terms) -> Mapping:
    mapping = found.map(plan.size, readonly=terms.readonly)
    if terms.lock_memory:
        mapping.lock_memory()
    return mapping


# ---- one in the place of another -----------------------------------------------------
#
# Who replaces an object has its exclusive lock. It makes the new one, with the data, without
# a name; says in the old one's control page that it is being replaced; and renames the new one
# over the old one. Who is granted a lock of the old one afterwards sees the word, and that the
# object has no name any more: it was replaced. Killed before the renaming, the old one
# still has its name, so the word means nothing; killed after it, nothing is left to be done.


def replace(old: Attachment, shape: tuple[int, ...], terms: Terms) -> Attachment:
    """Put a segment of that shape, with the same data, in the place of `old`.

    To be called by who has the exclusive lock of `old`. Data beyond the shorter of the two is
    dropped, or zero. Blocks while the kernel reserves the memory, and for a memcpy.

    Raises:
        RegionNotFoundError: the name leads to `old` no more. PermissionError: not ours to rename.
        OSError: ENOSPC, ENOMEM.
    """
    control = old.control()
    assert control is not None
    plan = layouts.plan(shape, dtype=old.plan.dtype, layout="managed", sparse=old.plan.sparse)
    tail = plan.tail(
        lineage=control.lineage,
        epoch=(control.epoch + 1) % 2**32,
        generation=((_native.control_generation(control) | 1) + 1) % 2**64,
    )

    def prepare(made: Segment) -> Mapping:
        mapping = _map(made, plan, terms)
        kept = min(old.plan.nbytes, plan.nbytes)
        if plan.sparse:  # a store could be SIGBUS, and would fill its holes
            segment.copy_sparsely(old.segment, made, kept)
        else:
            mapping.memory[:kept] = old.mapping.view(kept)
        return mapping

    def about_to_rename() -> None:
        control.replaced = 1

    segment.check_size(old.segment.name, plan.size, reserve=not plan.sparse)
    made, mapping = segment.replace(
        old.segment,
        plan.size,
        reserve=not plan.sparse,
        tail=tail,
        prepare=prepare,
        about_to_rename=about_to_rename,
    )
    return Attachment(made, mapping, plan)


def replaced(old: Attachment) -> bool:
    """Whether another one has taken its place."""
    control = old.control()
    return bool(control and control.replaced) and os.fstat(old.segment.fd).st_nlink == 0


def successor(old: Attachment, terms: Terms) -> Attachment:
    """Attach to what has taken the place of `old`.

    Raises:
        RegionReplacedError: its name leads to something unrelated. RegionNotFoundError: to
            nothing. And as for `attach`.
    """
    before = old.control()
    assert before is not None
    found = attach(
        old.segment.name, None, dtype=old.plan.dtype, layout="managed", reserve=True, terms=terms
    )
    now = found.control()
    assert now is not None
    if (now.lineage, now.epoch > before.epoch) != (before.lineage, True):
        found.segment.close()
        raise RegionReplacedError(
            errno.ESTALE,
            "it was replaced, then unlinked, and somebody has created another one: "
            "close it and attach again, if that is the one you want",
            old.segment.name,
        )
    return found
