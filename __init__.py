"""vtsr: video temporal super-resolution. Deblurs and interpolates video in one pass.

>>> from vtsr import Upconverter
>>> with Upconverter(levels=2) as up:               # doctest: +SKIP
...     for frame in up.run(frames):                # uint8 (H, W, 3) RGB in, 4 frames out per frame in
...         show(frame.image)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vtsr.errors import DeviceError, InputError, MissingExtraError, ModelError, OptionError, OutputError, VtsrError
    from vtsr.runtime.frame import Frame
    from vtsr.runtime.live.upconverter import LiveUpconverter
    from vtsr.runtime.upconverter import Upconverter

__version__ = "0.1.0"
__all__ = [
    "DeviceError",
    "Frame",
    "InputError",
    "LiveUpconverter",
    "MissingExtraError",
    "ModelError",
    "OptionError",
    "OutputError",
    "Upconverter",
    "VtsrError",
    "__version__",
]

_HOME = {
    "Frame": "vtsr.runtime.frame",
    "LiveUpconverter": "vtsr.runtime.live.upconverter",
    "Upconverter": "vtsr.runtime.upconverter",
}


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that `import vtsr` does not wait for ONNX Runtime.
    if name in __all__:
        import importlib

        return getattr(importlib.import_module(_HOME.get(name, "vtsr.errors")), name)
    raise AttributeError(f"module 'vtsr' has no attribute {name!r}")
