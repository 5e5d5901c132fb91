"""The queue that clients share, and who may enter it."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from service.inference.places import Places, QueueFullError
from service.inference.turns import Turns


def drained(turns: Turns[int]) -> list[int]:
    found = []
    while turns:
        first = turns.first
        found.append(turns.popleft())
        assert found[-1] == first
    return found


def places(most: int = 10, max_wait: float = 1.0, *, depth: int = 0, each: float = 0.0) -> Places:
    return Places(most, max_wait, lambda: depth, lambda: each)


def test_one_client_has_a_queue_as_any_other() -> None:
    turns = Turns[int]()
    for number in range(5):
        turns.append("a", number)
    assert len(turns) == 5
    assert drained(turns) == [0, 1, 2, 3, 4]


def test_clients_take_turns_and_each_keeps_its_order() -> None:
    turns = Turns[int]()
    for number in range(4):
        turns.append("many", number)
    turns.append("few", 10)
    turns.append("two", 20)
    turns.append("two", 21)
    assert drained(turns) == [0, 10, 20, 1, 21, 2, 3]


def test_who_comes_back_is_behind_those_who_wait() -> None:
    turns = Turns[int]()
    turns.append("a", 1)
    turns.append("b", 2)
    turns.append("b", 3)
    assert turns.popleft() == 1
    turns.append("a", 4)
    assert drained(turns) == [2, 4, 3]


def test_an_empty_queue_says_so() -> None:
    turns = Turns[int]()
    assert not turns
    with pytest.raises(IndexError):
        turns.popleft()
    with pytest.raises(IndexError):
        _ = turns.first


def test_one_client_may_have_all_places() -> None:
    admitted = places(10)
    free = [admitted.free]
    with admitted.take("a", 9):
        free.append(admitted.free)
        with admitted.take("a"):
            free.append(admitted.free)
            refused = admitted.refusal("a")
            assert refused is not None
            assert refused.rule == "10 images wait already."
        assert admitted.inside == 9
    assert admitted.inside == 0
    assert free == [True, True, False]


def test_who_has_less_than_a_share_is_taken_in_where_it_is_full() -> None:
    admitted = places(10)
    with admitted.take("many", 10), admitted.take("few", 5):
        assert admitted.inside == 15
        for client, own in (("many", 10), ("few", 5)):
            refused = admitted.refusal(client)
            assert refused is not None
            assert refused.rule == f"15 images wait already, {own} of them for this client."
        # A third of the places, and no more.
        assert admitted.refusal("third", 3) is None
        assert admitted.refusal("third", 4) is not None


def test_there_are_never_more_than_twice_as_many_as_one_may_have() -> None:
    admitted = places(100)
    with ExitStack() as stack:
        for number in range(1, 200):
            while admitted.refusal(f"client {number}") is None:
                stack.enter_context(admitted.take(f"client {number}"))
        assert admitted.inside == 200
    assert admitted.inside == 0


def test_who_comes_again_waits_longer_than_who_comes_once() -> None:
    # Twenty are computed in two seconds; one may be waited for.
    admitted = places(100, max_wait=1.0, depth=20, each=0.1)
    with admitted.take("few"):
        assert not admitted.free
        with admitted.take("many", 5):
            # Behind five rounds of two, and one of the other's.
            refused = admitted.refusal("many")
            assert refused is not None
            assert refused.rule == "An image would wait 1.1 s; 1 s are allowed."
            assert admitted.refusal("few") is None
        with admitted.take("many", 50):
            # Nobody waits longer than for all that there is.
            refused = admitted.refusal("many")
            assert refused is not None
            assert refused.wait == pytest.approx(2.0)


def test_a_refusal_takes_no_place() -> None:
    admitted = places(2)
    with admitted.take("a", 2):
        with pytest.raises(QueueFullError), admitted.take("a"):
            pytest.fail("It was taken in.")
        assert admitted.inside == 2
    assert admitted.inside == 0
