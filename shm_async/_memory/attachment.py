"""An attachment: a segment, where it is mapped, and how its data lies in it.

These functions make an attachment, find one, and replace one by another. Users see a Region.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from typing import cast

from .. import _native
from .._terms import Terms
from ..errors import RegionReplacedError
from . import elements, layouts, posix, room, sysv
from .elements import DTypeLike
from .layouts import Layout, Plan
from .mapping import Mapping
from .names import check_key, check_mode, name_of
from .names import check_name as check_posix_name
from .ownership import KEPT, Owners
from .replacing import copy_sparsely, put_in_place
from .segment import Segment

__all__ = [
    "Attachment",
    "attach",
    "check_name",
    "create",
    "newcomer",
    "replace",
    "replaced",
    "successor",
]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attachment of this process. Its user closes `segment`; the rest needs no closing."""

    segment: Segment
    mapping: Mapping
    plan: Plan

    def without_memory(self) -> "Attachment":
        """Return this attachment without its mapping: the facts, and the segment to close."""
        return replace_fields(self, mapping=cast("Mapping", None))

    def control(self) -> _native.Control | None:
        """Return the control page, valid as long as the mapping is; None: it is not managed."""
        return self.mapping.control() if self.plan.layout == "managed" else None

    def view(self) -> memoryview:
        """Return a view of the data, as elements."""
        plan = self.plan
        return elements.typed_view(
            self.mapping.view(plan.nbytes, plan.offset), plan.dtype, plan.shape
        )


def check_name(name: str | int) -> str | int:
    """Return a name without its slash, or a key.

    Raises:
        TypeError, ValueError: `name` is neither a valid name nor a valid key.
    """
    if isinstance(name, int) and not isinstance(name, bool):
        return check_key(name)
    return check_posix_name(cast("str", name))  # refuses every other type


def check_layout(layout: Layout, name: str | int | None) -> Layout:
    """Return `layout` if an object with that name, or a segment with that key, can have it.

    Raises:
        TypeError, ValueError: there is no such layout, or a segment with a key cannot have it.
    """
    if layouts.check_layout(layout) == "sized" and not isinstance(name, str):
        raise ValueError("layout 'sized' needs a name: System V segments have no header")
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
    owners: Owners = KEPT,
) -> Attachment:
    """Make a segment and map it. Blocks while the kernel reserves the memory."""
    if name is not None:
        name = check_name(name)
    check_mode(mode)
    plan = layouts.plan(
        shape,
        dtype=elements.check_dtype(dtype),
        layout=check_layout(layout, name),
        sparse=not reserve,
    )
    if isinstance(name, str):
        room.check(name, plan.size, reserve=reserve)
        make: Callable[..., tuple[Segment, Mapping]] = posix.create
    else:
        room.check_memory("" if name is None else name_of(name), plan.size, reserve=reserve)
        make = sysv.create
    made, mapping = make(
        name,
        plan.size,
        mode=mode,
        owners=owners,
        reserve=reserve,
        head=plan.head(),
        tail=plan.tail(),
        prepare=lambda made: _map(made, plan, terms),  # before another process can see it
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
        found: Segment = posix.attach(name, readonly=readonly, owner=terms.owner, header=header)
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
# The process that replaces an object holds its exclusive lock. It makes the new object, with
# the data, under a temporary name. It sets `replaced` in the old object's control page, and then
# renames the new object over the old one. A process that is granted a lock of the old object
# afterwards sees `replaced`, and that the object has no name any more: it was replaced. If the
# process is killed before the renaming, the old object still has its name, so `replaced` means
# nothing. If it is killed after the renaming, nothing is left to do.


def replace(old: Attachment, shape: tuple[int, ...], terms: Terms) -> Attachment:
    """Put a segment of that shape, with the same data, in the place of `old`.

    The caller holds the exclusive lock of `old`. If the new segment is shorter, the data beyond
    its end is dropped; if it is longer, the rest is zero. Blocks while the kernel reserves the
    memory, and for a memcpy.

    Raises:
        RegionNotFoundError: the name leads to `old` no more. PermissionError: this user may not
            rename it. OSError: ENOSPC, ENOMEM.
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
        if plan.sparse:  # a memcpy could raise SIGBUS, and would fill the holes
            copy_sparsely(old.segment, made, kept)
        else:
            mapping.memory[:kept] = old.mapping.view(kept)
        return mapping

    def about_to_rename() -> None:
        control.replaced = 1

    room.check(old.segment.name, plan.size, reserve=not plan.sparse)
    made, mapping = put_in_place(
        old.segment,
        plan.size,
        reserve=not plan.sparse,
        tail=tail,
        prepare=prepare,
        about_to_rename=about_to_rename,
    )
    return Attachment(made, mapping, plan)


def replaced(old: Attachment) -> bool:
    """Tell whether another segment has taken the place of `old`."""
    control = old.control()
    return bool(control and control.replaced) and os.fstat(old.segment.fd).st_nlink == 0


def newcomer(old: Attachment, terms: Terms) -> Attachment:
    """Attach to the segment that has the name, or the key, of `old` now, with its element type.

    Raises:
        RegionNotFoundError: there is no such segment. And as for `attach`.
    """
    segment, dtype = old.segment, old.plan.dtype
    address = segment.name if segment.key is None else segment.key
    return attach(address, None, dtype=dtype, layout="managed", reserve=True, terms=terms)


def successor(old: Attachment, terms: Terms) -> Attachment:
    """Attach to the segment that has taken the place of `old`.

    Raises:
        RegionReplacedError: the name leads to an unrelated segment. RegionNotFoundError: it
            leads to nothing. And as for `attach`.
    """
    before = old.control()
    assert before is not None
    found = newcomer(old, terms)
    now = found.control()
    assert now is not None
    if (now.lineage, now.epoch > before.epoch) != (before.lineage, True):
        found.segment.close()
        raise RegionReplacedError(
            errno.ESTALE,
            "it was replaced, then unlinked, and another process has created another one: "
            "to use that one, close this region and attach again",
            old.segment.name,
        )
    return found
