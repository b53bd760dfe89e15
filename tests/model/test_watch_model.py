"""Every state of what watchers and writers do with the word, the generation and the events.

One after the other each of them takes one step, in every order there is; a writer may die, or stand
still for ever, at any of them. watch.c says why it is right; here the mistakes that it
speaks of are made, too, and found.
"""

from collections.abc import Iterator
from typing import NamedTuple

import pytest

pytestmark = [pytest.mark.once, pytest.mark.long]

# where a writer is
IDLE, STORED, TELLING, CLEARING, DEAD = range(5)
# where a watcher is
AWAKE, LEAVING_WORD, SECOND_LOOK, ASLEEP = range(4)


class Word(NamedTuple):
    """shma_control.watchers: bit 0, and the rest."""

    left: bool = False
    number: int = 0


class Writer(NamedTuple):
    at: int = IDLE
    writes: int = 0
    last: int = 0  # the generation that it wrote last
    saw: Word = Word()


class Watcher(NamedTuple):
    at: int = AWAKE
    seen: int = 0  # generation
    event: bool = False  # is to be read


class State(NamedTuple):
    writes: int  # that each writer is to do
    writers: tuple[Writer, ...]
    watchers: tuple[Watcher, ...]
    generation: int = 0
    word: Word = Word()

    def with_writer(self, index: int, writer: Writer) -> "State":
        writers = (*self.writers[:index], writer, *self.writers[index + 1 :])
        return self._replace(writers=writers)

    def with_watcher(self, index: int, watcher: Watcher) -> "State":
        watchers = (*self.watchers[:index], watcher, *self.watchers[index + 1 :])
        return self._replace(watchers=watchers)

    def with_events(self) -> "State":
        told = tuple(watcher._replace(event=True) for watcher in self.watchers)
        return self._replace(watchers=told)


class Protocol:
    """As watch.c and lookout.py have it."""

    def steps(self, state: State) -> Iterator[State]:
        for index, writer in enumerate(state.writers):
            for after in self.write(state, writer):
                yield after[0].with_writer(index, after[1])
        for index, watcher in enumerate(state.watchers):
            for after in self.watch(state, watcher):
                yield after[0].with_watcher(index, after[1])

    def write(self, state: State, writer: Writer) -> Iterator[tuple[State, Writer]]:
        if writer.at == DEAD:
            return
        if writer.at != IDLE:  # dies: the kernel closes its descriptor
            yield state.with_events(), writer._replace(at=DEAD)
        if writer.at == IDLE and writer.writes < state.writes:
            generation = state.generation + 1
            yield (
                state._replace(generation=generation),
                writer._replace(at=STORED, writes=writer.writes + 1, last=generation),
            )
        elif writer.at == STORED:
            at = TELLING if state.word.left else IDLE
            yield state, writer._replace(at=at, saw=state.word)
        else:
            yield from self.tell(state, writer)

    def tell(self, state: State, writer: Writer) -> Iterator[tuple[State, Writer]]:
        if writer.at == TELLING:
            yield state.with_events(), writer._replace(at=CLEARING)
        elif writer.at == CLEARING:
            word = state.word
            if word == writer.saw:
                word = word._replace(left=False)
            yield state._replace(word=word), writer._replace(at=IDLE, saw=Word())

    def watch(self, state: State, watcher: Watcher) -> Iterator[tuple[State, Watcher]]:
        news = state.generation > watcher.seen
        if watcher.event and watcher.at == AWAKE:  # read while nobody waits: lost
            yield state, watcher._replace(event=False)
        if watcher.at in (AWAKE, SECOND_LOOK):
            if news:
                yield state, watcher._replace(at=AWAKE, seen=state.generation)
            else:
                yield state, watcher._replace(at=self.next_to_look(watcher.at))
        elif watcher.at == LEAVING_WORD:
            yield self.leave_word(state), watcher._replace(at=SECOND_LOOK)
        elif watcher.event:
            yield state, watcher._replace(at=AWAKE, event=False)

    def next_to_look(self, at: int) -> int:
        return LEAVING_WORD if at == AWAKE else ASLEEP

    def leave_word(self, state: State) -> State:
        return state._replace(word=Word(True, state.word.number + 1))


def search(protocol: Protocol, writers: int, writes: int, watchers: int) -> State | None:
    """A state in which a watcher sleeps over what a writer has done who is through with it."""
    first = State(writes, (Writer(),) * writers, (Watcher(),) * watchers)
    known, left = {first}, [first]
    while left:
        state = left.pop()
        if slept_over(state):
            return state
        for after in protocol.steps(state):
            # who is who does not matter
            fresh = after._replace(
                writers=tuple(sorted(after.writers)), watchers=tuple(sorted(after.watchers))
            )
            if fresh not in known:
                known.add(fresh)
                left.append(fresh)
    return None


def slept_over(state: State) -> bool:
    through = max((one.last for one in state.writers if one.at in (IDLE, DEAD)), default=0)
    return any(
        watcher.at == ASLEEP and not watcher.event and watcher.seen < through
        for watcher in state.watchers
    )


#: Writers, writes of each, watchers.
SIZES = [(2, 2, 1), (3, 1, 1), (2, 1, 2)]


@pytest.mark.parametrize("size", SIZES)
def test_nobody_ever_sleeps_over_a_change(size: tuple[int, int, int]):
    assert search(Protocol(), *size) is None


class WithoutSecondLook(Protocol):
    def watch(self, state: State, watcher: Watcher) -> Iterator[tuple[State, Watcher]]:
        if watcher.at == SECOND_LOOK:
            yield state, watcher._replace(at=ASLEEP)
        else:
            yield from super().watch(state, watcher)


class LeavesWordOnce(Protocol):
    def next_to_look(self, at: int) -> int:
        return ASLEEP

    def leave_word(self, state: State) -> State:
        raise AssertionError("it was there from the beginning")


class ClearsBlindly(Protocol):
    def tell(self, state: State, writer: Writer) -> Iterator[tuple[State, Writer]]:
        for after, its in super().tell(state, writer):
            blind = writer.at == CLEARING
            yield (after._replace(word=after.word._replace(left=False)) if blind else after), its


class WithoutNumber(Protocol):
    """Who woke up and has left word again cannot be told from one who left it before."""

    def leave_word(self, state: State) -> State:
        return state._replace(word=Word(True, 0))


class ClearsFirst(Protocol):
    """Then one that is stopped before it tells silences the others."""

    def tell(self, state: State, writer: Writer) -> Iterator[tuple[State, Writer]]:
        if writer.at == TELLING:
            yield state._replace(word=state.word._replace(left=False)), writer._replace(at=CLEARING)
        elif writer.at == CLEARING:
            yield state.with_events(), writer._replace(at=IDLE, saw=Word())


class DiesUnheard(Protocol):
    """As if the death of a writer closed nothing."""

    def write(self, state: State, writer: Writer) -> Iterator[tuple[State, Writer]]:
        for after, its in super().write(state, writer):
            yield (state, its) if its.at == DEAD else (after, its)


@pytest.mark.parametrize(
    "mistake",
    [WithoutSecondLook, LeavesWordOnce, ClearsBlindly, WithoutNumber, ClearsFirst, DiesUnheard],
)
def test_each_mistake_is_found(mistake: type[Protocol]):
    assert any(search(mistake(), *size) for size in SIZES)
