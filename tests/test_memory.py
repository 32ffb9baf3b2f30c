"""Memory between the segments of a long job."""

from __future__ import annotations

import weakref

import pytest

from vtsr.runtime import memory


class Encoder:
    """Stands for one that refers to itself, as PyAV's do by way of their containers."""

    def __init__(self) -> None:
        self.container = [self]


def test_what_lives_only_in_a_cycle_is_freed() -> None:
    gone = weakref.ref(Encoder())
    memory.give_back()
    assert gone() is None


def test_systems_whose_c_library_cannot_trim_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    memory._trim.cache_clear()
    memory.give_back()
    assert memory._trim() is None
    memory._trim.cache_clear()
