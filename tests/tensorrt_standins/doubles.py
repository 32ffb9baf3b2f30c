"""Doubles of the objects that only a GPU can make, over the real bindings of one TensorRT version.

A double has exactly the attributes of the real class: a name that a version lacks raises AttributeError here as it
would there. Every call on one is compared with the signature in the real method's docstring.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any
from unittest import mock

from vtsr.errors import VtsrError


def import_bindings(folder: str) -> Any:
    """The bindings in ``folder``, as the module tensorrt."""
    sys.path.insert(0, folder)
    try:
        import tensorrt
    except ImportError:
        import tensorrt_bindings as tensorrt
    sys.modules["tensorrt"] = tensorrt
    return tensorrt


def double(trt: Any, name: str, **values: Any) -> Any:
    """An object with the attributes of ``trt.NAME`` and no others."""
    made = mock.MagicMock(spec_set=getattr(trt, name), name=name)
    for attribute, value in values.items():
        setattr(made, attribute, value)
    return made


def wrong_calls(*doubles: Any) -> list[str]:
    """Calls of methods with a number of arguments that the real method does not take."""
    faults = []
    for made in doubles:
        real = made._spec_class
        for path, args, kwargs in made.method_calls:
            signatures = re.findall(r"\(self: [^)]*\)|\(self\)", getattr(real, path).__doc__ or "")
            given = len(args) + len(kwargs)
            taken = [(_required(s), s.count(": ") - 1) for s in signatures]
            if taken and not any(least <= given <= most for least, most in taken):
                faults.append(f"{real.__name__}.{path} takes {signatures}, given {given}")
    return faults


def _required(signature: str) -> int:
    arguments = re.findall(r"(\w+): ([^,()]*(?:\[[^\]]*\])?[^,()]*)", signature)
    return sum("=" not in kind for _, kind in arguments) - 1


def sentence(action: Callable[[], Any]) -> str:
    """The error of ``action``; "" if there is none."""
    try:
        action()
    except VtsrError as error:
        return str(error)
    return ""
