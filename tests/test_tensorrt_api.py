"""Every name of pycuda, cuda-bindings and TensorRT that the runtime uses, against the real packages.

pycuda cannot be imported without a driver, so its wrapper's source is read; cuda-bindings can; TensorRT's bindings
are imported over stand-ins, see `bindings_wheels`. Nothing is run on a GPU.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from typing import Any

import pytest
from bindings_wheels import exercise, fetch

from vtsr import MissingExtraError
from vtsr.runtime import backend as backends
from vtsr.runtime.backend import load_backend
from vtsr.runtime.engines import platform
from vtsr.runtime.models import open_model
from vtsr.runtime.tensorrt import cuda

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages are those for Linux")

PYCUDA = "pycuda==2026.1"
CUDA_PACKAGES = ("cuda-bindings", "cuda-pathfinder")
VERSIONS = ("8.6.1", "10.16.1.11", "11.4.0.106")

# Methods of the objects that these classes' constructors or functions return.
PYCUDA_METHODS = {
    "Context": ("push", "pop", "detach", "synchronize"),
    "Device": ("count", "retain_primary_context", "name", "compute_capability", "total_memory", "get_attribute"),
    "Stream": ("handle", "wait_for_event"),
    "Event": ("record", "synchronize", "query", "time_since"),
    "DeviceAllocation": ("free", "__int__"),
    "PagelockedHostAllocation": ("free",),
}


def tree() -> ast.Module:
    return ast.parse(inspect.getsource(cuda))


def chains(root: str, module: Any = cuda) -> set[str]:
    """Dotted names that begin with ``root``, as in ``self._cuda.Context.synchronize``."""
    found = set()
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if isinstance(node, ast.Attribute):
            text = re.sub(r"\([^()]*\)", "", ast.unparse(node))
            if text.startswith(f"{root}."):
                found.add(text[len(root) + 1 :])
    return found


@pytest.fixture(scope="module")
def pycuda_source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("pycuda")
    # Not through pip: it would build the package to learn its name.
    fetch((PYCUDA,), folder, "--no-binary", ":all:", "--no-build-isolation")
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        member = next(m for m in archive.getmembers() if m.name.endswith("src/wrapper/wrap_cudadrv.cpp"))
        file = archive.extractfile(member)
        assert file is not None
        return file.read().decode()


def defines(source: str, name: str) -> bool:
    """Whether the wrapper gives Python something of that name."""
    word = re.escape(name)
    return bool(
        re.search(rf'"{word}"', source)
        or re.search(rf"DEF_SIMPLE_\w+\({word}\)", source)
        or re.search(rf"DECLARE_EXC\({word},", source)
    )


def class_source(source: str, name: str) -> str:
    """The part of the wrapper that describes a class."""
    start = re.search(rf'py::class_<[^"]*"{name}"', source)
    assert start is not None, name
    end = source.find("py::class_<", start.end())
    return source[start.start() : end]


def test_pycuda_has_every_name_that_is_used(pycuda_source: str) -> None:
    used = chains("self._cuda") | chains("cuda") | chains("cuda", platform)
    # Names of our own modules and attributes of arguments begin elsewhere.
    names = {part for chain in used for part in chain.split(".")} - {"bindings"}
    assert {"mem_alloc", "pagelocked_empty", "memcpy_htod_async", "Stream", "Event", "Error"} <= names
    assert [name for name in sorted(names) if not defines(pycuda_source, name)] == []


@pytest.mark.parametrize("name", list(PYCUDA_METHODS))
def test_pycudas_classes_have_the_methods_that_are_used(pycuda_source: str, name: str) -> None:
    part = class_source(pycuda_source, name)
    assert [method for method in PYCUDA_METHODS[name] if not defines(part, method)] == []


def test_pycudas_functions_take_the_arguments_that_are_given(pycuda_source: str) -> None:
    assert re.search(r'"pagelocked_empty".{0,120}"shape".{0,40}"dtype".{0,80}"mem_flags"', pycuda_source, re.DOTALL)
    for function in ("memcpy_htod_async", "memcpy_dtoh_async", "memcpy_dtod_async"):
        assert re.search(rf'"{function}".{{0,200}}"stream"', pycuda_source, re.DOTALL)


def test_the_check_of_pycuda_notices_a_name_it_has_not(pycuda_source: str) -> None:
    assert not defines(pycuda_source, "StreamBeginCapture")
    assert not defines(class_source(pycuda_source, "Stream"), "priority")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Facts about cuda.bindings.driver, found in a process of its own."""
    folder = tmp_path_factory.mktemp("cuda")
    fetch(CUDA_PACKAGES, folder, "--only-binary", ":all:")
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder / "site")
    calls, constants = used_of_driver()
    script = (
        "import json, sys; from cuda.bindings import driver\n"
        "from functools import reduce\n"
        "calls, constants = json.loads(sys.argv[1])\n"
        "def has(path):\n"
        "    try: reduce(getattr, path.split('.'), driver); return True\n"
        "    except AttributeError: return False\n"
        "print(json.dumps({'calls': {n: (getattr(driver, n, None).__doc__ or '').splitlines()[:1] for n in calls},\n"
        "                  'missing': [c for c in [*calls, *constants] if not has(c)],\n"
        "                  'values': [int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING),\n"
        "                             int(driver.CUevent_flags.CU_EVENT_BLOCKING_SYNC),\n"
        "                             int(driver.CUevent_flags.CU_EVENT_DISABLE_TIMING),\n"
        "                             int(driver.CUmemorytype.CU_MEMORYTYPE_HOST),\n"
        "                             int(driver.CU_MEMHOSTALLOC_PORTABLE)]}))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    arguments = [sys.executable, "-c", script, json.dumps([sorted(calls), sorted(constants)])]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def used_of_driver() -> tuple[dict[str, int], set[str]]:
    """Driver calls with their numbers of arguments, and other names of cuda.bindings.driver."""
    calls: dict[str, int] = {}
    for node in ast.walk(tree()):
        if not isinstance(node, ast.Call):
            continue
        target = ast.unparse(node.func)
        first = node.args[0] if node.args else None
        if target in ("self._bindings", "self._bindings.holds") and isinstance(first, ast.Constant):
            calls[str(first.value)] = len(node.args) - 1
        elif re.fullmatch(r"(self\._bindings\.)?driver\.cu\w+", target):
            calls[target.rsplit(".", 1)[1]] = len(node.args)
    constants = chains("driver") | chains("self._bindings.driver") | chains("self.driver")
    return calls, {name for name in constants if not name.startswith("cu")}


def test_cuda_bindings_has_every_name_that_is_used(driver: dict[str, Any]) -> None:
    calls, constants = used_of_driver()
    assert {"cuStreamBeginCapture", "cuGraphInstantiate", "cuGraphLaunch", "cuStreamCreateWithPriority"} <= set(calls)
    assert "CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL" in constants
    assert driver["missing"] == []


def test_cuda_bindings_calls_take_as_many_arguments_as_are_given(driver: dict[str, Any]) -> None:
    for name, given in used_of_driver()[0].items():
        signature = re.search(r"\((.*)\)", driver["calls"][name][0])
        assert signature is not None, name
        arguments = [a for a in signature[1].split(",") if a.strip()]
        assert len(arguments) == given, f"{name}({signature[1]}) is given {given}"


def test_constants_have_the_values_of_cudas_headers(driver: dict[str, Any]) -> None:
    ours = [
        cuda.STREAM_NON_BLOCKING, cuda.EVENT_BLOCKING_SYNC, cuda.EVENT_DISABLE_TIMING, cuda.HOST_MEMORY,
        cuda.PORTABLE,
    ]  # fmt: skip
    assert driver["values"] == ours


@pytest.fixture(scope="module", params=VERSIONS)
def exercised(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `exercise_runtime.py` reports for one version."""
    return exercise("exercise_runtime.py", request.param, tmp_path_factory)


def test_calls_of_engines_use_what_each_tensorrt_version_has(exercised: dict[str, Any]) -> None:
    found = exercised["static"]
    assert found["wrong_calls"] == []
    assert found["types"] == {"u": "float32", "v": "float32", "halves": "float32"}
    assert found["scratch"] == 4096
    assert found["memory_given"]
    assert found["enqueued"]
    assert found["refusal"].startswith("execute_async_v3 of ")


def test_engines_of_many_sizes_overlap_only_where_profiles_are_shared(exercised: dict[str, Any]) -> None:
    refused = exercised["dynamic"].get("refused", "")
    assert ("TensorRT 8 cannot overlap" in refused) == exercised["version"].startswith("8.")


def test_contexts_of_many_sizes_are_given_their_profile_where_they_do_not_begin_with_it(
    exercised: dict[str, Any]
) -> None:
    if exercised["version"].startswith("8."):
        pytest.skip("refused there")
    assert exercised["dynamic"]["profiles"] == []
    given = exercised["dynamic without profile"]
    assert given["profiles"] == [[0, 0]] * 2  # profile and stream, for each of two contexts
    assert given["profile_waited_for"] == 2
    assert given["wrong_calls"] == []
    assert "cannot share an engine of many sizes; export" in exercised["dynamic and refused"]["refused"]


def test_nothing_here_could_have_run_on_a_gpu(exercised: dict[str, Any]) -> None:
    assert exercised["no_gpu"]


# Asking for TensorRT where it is not


@pytest.mark.skipif(platform.what_is_missing() is None, reason="TensorRT works on this machine")
def test_asking_for_tensorrt_without_it_names_all_that_is_missing_in_one_sentence() -> None:
    with pytest.raises(MissingExtraError) as caught:
        load_backend("tensorrt")
    missing = platform.what_is_missing()
    assert missing is not None
    assert str(caught.value) == f"{missing[:-1]}, which TensorRT needs; choose the backend onnxruntime."


def test_auto_takes_tensorrt_only_for_a_model_made_for_it_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_backend("auto").name == "onnxruntime"  # the shipped model has no build recipe
    monkeypatch.setattr("vtsr.runtime.engines.recipe.RECIPE_NAME", "manifest.json")  # as if it had one
    for missing, expected in ((None, True), ("This machine lacks an NVIDIA driver.", False)):
        monkeypatch.setattr(platform, "what_is_missing", lambda missing=missing: missing)
        assert backends._has_tensorrt(open_model("default")) is expected


def test_importing_the_runtime_needs_neither_a_gpu_nor_its_packages() -> None:
    script = (
        "import sys, vtsr.runtime.tensorrt.backend, vtsr.runtime.tensorrt.cuda, vtsr.runtime.tensorrt.embedding\n"
        "assert not {'tensorrt', 'pycuda', 'cuda', 'torch', 'onnx'} & set(sys.modules), sorted(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
