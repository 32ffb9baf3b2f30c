"""Which backend and precision would be used, and why."""

from __future__ import annotations

from vtsr.errors import VtsrError
from vtsr.runtime.backend import load_backend
from vtsr.runtime.cpu import has_integer_dot_products
from vtsr.runtime.doctor.report import Finding
from vtsr.runtime.engines.platform import what_is_missing
from vtsr.runtime.engines.recipe import RECIPE_NAME
from vtsr.runtime.models import INT8_STEP, ModelFolder, open_model

NAMES = {"onnxruntime": "ONNX Runtime on the CPU", "tensorrt": "TensorRT on the GPU"}


def choice(model: str, backend: str) -> tuple[Finding, bool]:
    """The backend that ``backend`` stands for here, and whether it can be loaded."""
    try:
        folder = open_model(model)
        loaded = load_backend(backend, model, None, "auto")
    except VtsrError as error:
        return Finding("backend", "broken", "cannot be loaded", str(error)), False
    name, precision = loaded.name, loaded.precision
    loaded.close()
    reasons = [_why_precision(folder, precision), *_why_not_tensorrt(folder)] if name == "onnxruntime" else []
    text = f"{NAMES.get(name, name)}, {precision}" + (f": {'; '.join(reasons)}" if reasons else "")
    return Finding("backend", "ok", text, facts={"backend": name, "precision": precision, "reasons": reasons}), True


def _why_precision(model: ModelFolder, precision: str) -> str:
    if precision == "int8":
        return "this CPU has integer dot products and the model is quicker with them"
    if INT8_STEP not in model.files:
        return "the model has no INT8 graph for CPUs"
    if not model.gains_from_int8:
        return "the model does not gain from INT8"
    if has_integer_dot_products() is False:
        return "this CPU has no integer dot products, which INT8 needs"
    return "whether this CPU has integer dot products cannot be told"


def _why_not_tensorrt(model: ModelFolder) -> list[str]:
    lacking = what_is_missing()
    if lacking is not None:
        return [f"no TensorRT, as {lacking[0].lower()}{lacking[1:].rstrip('.')}"]
    if not (model.path / RECIPE_NAME).is_file():
        return ["the model was not exported for TensorRT (vtsr-export --fp16)"]
    return []
