"""The engine cache with real files and processes; the engines are bytes, since the cache never looks inside."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
from pathlib import Path
from typing import Any

import pytest
from engine_workers import PLAN, PLATFORM, contend, die_while_building, request
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vtsr.errors import ModelError, OptionError, VtsrError
from vtsr.runtime.engines.cache import Built, EngineCache, cache_folder
from vtsr.runtime.engines.request import BuildSettings, EngineRequest, key_of


class Workshop:
    """A cache with a builder that counts, and what the cache has said."""

    def __init__(self, folder: Path) -> None:
        self.said: list[str] = []
        self.cache = EngineCache(folder, self.said.append)
        self.builds = 0
        self.loads: list[bytes] = []

    def build(self) -> Built:
        self.builds += 1
        return Built(PLAN + str(self.builds).encode(), {"build_seconds": 1.0})

    def load(self, plan: bytes) -> bytes:
        self.loads.append(plan)
        return plan

    def get(self, asked: EngineRequest | None = None, platform: dict[str, Any] | None = None) -> bytes:
        return self.cache.get(asked or request(), platform or PLATFORM, self.load, self.build)[0]

    def file(self, suffix: str) -> Path:
        return next(self.cache.folder.glob(f"*{suffix}"))


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_an_engine_is_built_once_and_then_loaded(workshop: Workshop) -> None:
    assert workshop.get() == workshop.get() == PLAN + b"1"
    assert workshop.builds == 1
    assert workshop.said == ["Building default-fp16-step-64x32-b1: there is none yet."]


def test_the_manifest_says_what_an_engine_is(workshop: Workshop) -> None:
    workshop.get()
    manifest = json.loads(workshop.file(".json").read_text())
    assert manifest["plan"] == {"sha256": hashlib.sha256(PLAN + b"1").hexdigest(), "bytes": len(PLAN) + 1}
    assert manifest["invalidates"]["platform"] == PLATFORM
    assert manifest["invalidates"]["graph"] == hashlib.sha256(b"onnx").hexdigest()
    assert manifest["facts"]["build_seconds"] == 1.0
    assert workshop.file(".onnx").read_bytes() == b"onnx"


OTHERS = {
    "graph": {"graph": b"other onnx"},
    "precision": {"precision": "int8"},
    "typing": {"strongly_typed": False},
    "shape": {"profile": {"u": ((1, 3, 32, 32),) * 3}},
    "range": {"profile": {"u": ((1, 3, 32, 32), (1, 3, 32, 64), (1, 3, 32, 64))}},
    "workspace": {"settings": BuildSettings(workspace=1 << 20)},
    "level": {"settings": BuildSettings(optimization_level=5)},
    "streams": {"settings": BuildSettings(aux_streams=1)},
    "tf32": {"settings": BuildSettings(tf32=True)},
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS.keys())
def test_whatever_changes_the_engine_changes_its_file(workshop: Workshop, change: dict[str, Any]) -> None:
    workshop.get()
    workshop.get(request(**change))
    assert workshop.builds == 2
    workshop.get()
    assert workshop.builds == 2  # the first is still there


@pytest.mark.parametrize("fact", PLATFORM)
def test_an_engine_of_another_platform_is_not_used_and_the_reason_is_told(workshop: Workshop, fact: str) -> None:
    workshop.get()
    workshop.get(platform={**PLATFORM, fact: "another"})
    assert workshop.builds == 2
    assert workshop.said[-1].endswith(f": {fact} changed from {PLATFORM[fact]} to another.")


def test_the_order_of_facts_does_not_matter() -> None:
    assert key_of({"a": 1, "b": {"c": 2, "d": 3}}) == key_of({"b": {"d": 3, "c": 2}, "a": 1})


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


DAMAGE = {
    "truncated": lambda data: data[:-1],
    "empty": lambda data: b"",
    "longer": lambda data: data + b"\0",
    "one bit": lambda data: flip(data, 9999),
    "foreign": lambda data: b"x" * len(data),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_engine_is_rebuilt_once_with_one_line(workshop: Workshop, damage: Any) -> None:
    workshop.get()
    path = workshop.file(".plan")
    path.write_bytes(damage(path.read_bytes()))
    assert workshop.get() == workshop.get() == PLAN + b"2"
    assert workshop.builds == 2
    assert len(workshop.said) == 2
    assert re.fullmatch(r"Rebuilding default-fp16-step-64x32-b1: its file .*\.", workshop.said[1])


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_bytes_that_were_not_written_by_the_cache_are_never_loaded(workshop: Workshop, damage: Any) -> None:
    workshop.get()
    path = workshop.file(".plan")
    path.write_bytes(damage(path.read_bytes()))
    workshop.get()
    assert set(workshop.loads) == {PLAN + b"1", PLAN + b"2"}


def test_an_engine_without_a_manifest_is_rebuilt(workshop: Workshop) -> None:
    workshop.get()
    workshop.file(".json").unlink()
    assert workshop.get() == PLAN + b"2"
    assert workshop.said[-1] == "Rebuilding default-fp16-step-64x32-b1: it has no manifest."


def test_an_engine_that_cannot_be_loaded_is_rebuilt_once(workshop: Workshop) -> None:
    workshop.get()

    def load(plan: bytes) -> bytes:
        if plan.endswith(b"1"):
            raise ModelError("TensorRT refuses the engine: wrong version.")
        return plan

    assert workshop.cache.get(request(), PLATFORM, load, workshop.build)[0] == PLAN + b"2"
    assert "it cannot be loaded: TensorRT refuses" in workshop.said[-1]


def test_an_engine_that_never_loads_is_an_error_and_is_not_kept(workshop: Workshop) -> None:
    def load(plan: bytes) -> bytes:
        raise ModelError("TensorRT refuses the engine.")

    with pytest.raises(ModelError, match="refuses"):
        workshop.cache.get(request(), PLATFORM, load, workshop.build)
    assert workshop.builds == 1
    assert workshop.cache.entries() == []


def test_a_failed_build_leaves_nothing_and_the_old_engine_alone(workshop: Workshop) -> None:
    workshop.get()

    def build() -> Built:
        raise ModelError("TensorRT cannot build it.")

    with pytest.raises(ModelError, match="cannot build"):
        workshop.cache.get(request(graph=b"other"), PLATFORM, workshop.load, build)
    assert [entry.problem for entry in workshop.cache.entries()] == [None]
    assert workshop.get() == PLAN + b"1"


def test_without_a_builder_a_missing_engine_is_an_error_that_says_what_to_do(workshop: Workshop) -> None:
    with pytest.raises(ModelError, match="make it with vtsr-export"):
        workshop.cache.get(request(), PLATFORM, workshop.load)


def test_a_swapped_engine_is_noticed(workshop: Workshop) -> None:
    """A good engine under the name of another one, with its own good manifest."""
    workshop.get()
    workshop.get(request(graph=b"other"))
    first, second = sorted(workshop.cache.folder.glob("*.plan"))
    for suffix in (".plan", ".json"):
        second.with_suffix(suffix).write_bytes(first.with_suffix(suffix).read_bytes())
    assert "does not belong" in str(workshop.cache.inspect(second).problem)
    for asked in (request(), request(graph=b"other")):
        workshop.get(asked)
    assert workshop.builds == 3


@pytest.mark.skipif(os.name != "posix", reason="needs links")
def test_a_link_out_of_the_cache_is_not_followed(workshop: Workshop, tmp_path: Path) -> None:
    workshop.get()
    path = workshop.file(".plan")
    elsewhere = tmp_path / "elsewhere.plan"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    assert workshop.get() == PLAN + b"2"
    assert elsewhere.read_bytes() == PLAN + b"1"
    assert not path.is_symlink()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_cache_that_others_can_write_to_is_refused(workshop: Workshop) -> None:
    workshop.get()
    workshop.cache.folder.chmod(0o777)
    with pytest.raises(ModelError, match="Other users can write"):
        workshop.get()
    assert len(workshop.loads) == 1


def test_a_read_only_cache_is_read_without_a_lock(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.get()
    workshop.file(".lock").unlink(missing_ok=True)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert workshop.get() == PLAN + b"1"
    assert not list(workshop.cache.folder.glob("*.lock"))


@pytest.mark.parametrize("name", ["../escape", "a/b", "", ".hidden", "a\0b", "x" * 200])
def test_a_name_that_leads_elsewhere_is_refused(workshop: Workshop, name: str) -> None:
    with pytest.raises(OptionError):
        workshop.get(request(name=name))


def test_the_folder_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VTSR_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("VTSR_CACHE")
    assert cache_folder().name == "vtsr"


def test_an_unusable_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(VtsrError, match=r"VTSR_CACHE.*\.$"):
        Workshop(tmp_path / "file").get()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=5,
)
places = st.sampled_from([
    ("format",), ("name",), ("key",), ("invalidates",), ("plan",), ("facts",), ("plan", "sha256"), ("plan", "bytes"),
    ("invalidates", "platform"), ("invalidates", "graph"), ("extra",),
])  # fmt: skip


@given(place=places, value=json_values, remove=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_with_anything_in_it_is_read_or_rebuilt(
    tmp_path: Path, place: tuple[str, ...], value: Any, remove: bool
) -> None:
    workshop = Workshop(tmp_path)
    before = workshop.get()
    path = workshop.file(".json")
    manifest = json.loads(path.read_text())
    parent = manifest
    for name in place[:-1]:
        parent = parent[name]
    if remove:
        parent.pop(place[-1], None)
    else:
        parent[place[-1]] = value
    path.write_text(json.dumps(manifest))
    builds = workshop.builds
    after = workshop.get()
    assert after == (before if workshop.builds == builds else PLAN + str(workshop.builds).encode())
    assert [entry.problem for entry in workshop.cache.entries()] == [None]


@given(data=st.binary(max_size=300))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_manifest_of_any_bytes_is_rebuilt(tmp_path: Path, data: bytes) -> None:
    workshop = Workshop(tmp_path)
    workshop.get()
    workshop.file(".json").write_bytes(data)
    builds = workshop.builds
    workshop.get()
    assert workshop.builds == builds + 1


@given(bit=st.integers(0, 8 * 900))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_of_plan_or_manifest_gives_another_engine(tmp_path: Path, bit: int) -> None:
    workshop = Workshop(tmp_path)
    for suffix in (".plan", ".json"):
        workshop.get()
        path = workshop.file(suffix)
        intact = workshop.file(".plan").read_bytes()
        path.write_bytes(flip(path.read_bytes(), bit))
        workshop.loads.clear()
        workshop.get()
        assert set(workshop.loads) <= {intact, PLAN + str(workshop.builds).encode()}


def test_prune_removes_what_is_of_no_use_and_nothing_else(workshop: Workshop) -> None:
    workshop.get()
    workshop.get(request(graph=b"damaged"))
    workshop.get(platform={**PLATFORM, "driver": "535.1"})
    folder = workshop.cache.folder
    keep, *_ = (e.path for e in workshop.cache.entries() if e.manifest["invalidates"]["platform"] == PLATFORM)
    damaged = next(e.path for e in workshop.cache.entries() if e.path != keep and _is_here(e.manifest))
    damaged.write_bytes(b"short")
    (folder / f"{keep.stem}.tmp123.partial").write_bytes(b"remains")
    (folder / "notes.txt").write_text("not ours")
    count, freed = workshop.cache.prune(PLATFORM)
    assert count == 2
    assert freed > len(PLAN)
    assert {p.name for p in folder.iterdir() if p.suffix != ".lock"} == {
        keep.name, keep.with_suffix(".json").name, keep.with_suffix(".onnx").name, "notes.txt"
    }  # fmt: skip


def test_a_cache_that_cannot_be_pruned_is_one_sentence(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    workshop.get()
    workshop.file(".plan").write_bytes(b"short")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(VtsrError, match=r"cannot be pruned: Permission denied\.$"):
        workshop.cache.prune(PLATFORM)


def _is_here(manifest: dict[str, Any]) -> bool:
    return bool(manifest["invalidates"]["platform"] == PLATFORM)


def test_without_a_platform_prune_keeps_engines_of_all_machines(workshop: Workshop) -> None:
    workshop.get()
    workshop.get(platform={**PLATFORM, "GPU": "Orin"})
    assert workshop.cache.prune() == (0, 0)
    assert len(workshop.cache.entries()) == 2


def test_processes_that_want_one_engine_at_once_build_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    log, start = tmp_path / "builds", context.Event()
    workers = [context.Process(target=contend, args=(str(tmp_path), str(log), start)) for _ in range(3)]
    for worker in workers:
        worker.start()
    start.set()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert len(log.read_text().splitlines()) == 1


def test_a_process_killed_while_building_leaves_no_lock_and_no_engine(workshop: Workshop, tmp_path: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=die_while_building, args=(str(tmp_path),))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 9
    assert workshop.get() == PLAN + b"1"
    assert workshop.builds == 1


def test_prune_leaves_an_engine_alone_that_another_process_works_on(workshop: Workshop) -> None:
    workshop.get()
    workshop.file(".plan").write_bytes(b"short")
    damaged = workshop.file(".plan")
    with workshop.cache._lock(damaged, wait=True):
        assert EngineCache(workshop.cache.folder.parent, print).prune(PLATFORM) == (0, 0)
    assert damaged.exists()
