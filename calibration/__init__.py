"""INT8: what the recursion's tensors hold, and the quantised graphs made from it. Needs the package `onnx`.

Interface for other parts of the package:

`vtsr.calibration.ranges.Ranges`
    Histograms of activations, by recursion level, of one model. `load(path)` and `save(path)` (strict JSON,
    raise `InputError` / `OutputError`), `merged(other)`, `check_model(model)` (raises `ModelError` if the
    ranges belong to another model), `keep_float` (layers the sensitivity search left in floating point).
`vtsr.calibration.quantize.quantize(model, ranges, *, keep_float=(), scale_type="fp32") -> onnx.ModelProto`
    The step graph with explicit Q/DQ for TensorRT. "fp32" gives an fp32-typed graph in the model's own
    opset (17 or 18; for TensorRT 8.x); "fp16" a strongly typed fp16 graph in opset 19 (for TensorRT 10 and
    later), whose scales are fp16. Takes the fp32 step graph, also with half-stored weights, also frozen.
`vtsr.calibration.quantize.quantize_for_cpu(model, ranges, *, keep_float=()) -> onnx.ModelProto`
    The same for ONNX Runtime's integer kernels on CPUs, which want outputs quantised too.
`vtsr.calibration.gate.check(folder, graph, clips, ...) -> gate.Verdict`
    Quality of a quantised step graph against the folder's own `step.onnx`; `verdict.passed`,
    `verdict.sentence()` and `verdict.to_json()` for the manifest.
"""
