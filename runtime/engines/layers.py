"""The layers of an engine: names, precisions and shares of the time, as the engine inspector gives them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from vtsr.errors import ModelError

# In order: "bfloat16" and "float16" contain less specific words.
PRECISION_WORDS = {
    "bf16": "bf16", "bfloat": "bf16", "half": "fp16", "fp16": "fp16", "float16": "fp16",
    "uint8": "uint8", "int8": "int8", "fp32": "fp32", "float": "fp32", "int32": "int32",
    "int64": "int64", "bool": "bool",
}  # fmt: skip


def layer_names(trt: Any, engine: Any) -> list[dict[str, Any]]:
    """What the engine inspector says of each layer: at least ``Name``, with details its types."""
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError) as error:
        raise ModelError("The engine inspector of TensorRT gave something that is not JSON.") from error
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def layer_precision(layer: Mapping[str, Any]) -> str:
    """Element type of a layer's first output, from either form of the inspector's JSON; "" if unknown.

    Up to 10 the type is part of ``Format/Datatype`` ("Half Row major linear"), later a field of its own.
    """
    for output in layer.get("Outputs") or []:
        if isinstance(output, dict):
            for name in ("DataType", "Datatype", "Format/Datatype", "Format"):
                words = str(output.get(name, "")).lower()
                for word, precision in PRECISION_WORDS.items():
                    if word in words:
                        return precision
    return ""


def layer_table(layers: list[dict[str, Any]], times: Mapping[str, float]) -> str:
    """A table of layers: share of the time, milliseconds, precision, name; slowest first."""
    total = sum(times.values()) or 1.0
    names = list(dict.fromkeys([*(str(layer.get("Name", "")) for layer in layers), *times]))
    precision = {str(layer.get("Name", "")): layer_precision(layer) for layer in layers}
    rows = [
        f"{100 * times.get(name, 0) / total:6.1f} %  {times.get(name, 0):8.4f}  {precision.get(name) or '-':9}  {name}"
        for name in sorted(names, key=lambda name: -times.get(name, 0))
    ]
    return "\n".join(["   share        ms  precision  layer", *rows])
