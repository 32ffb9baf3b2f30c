"""What TensorRT says: collected by a logger, put into errors."""

from __future__ import annotations

from typing import Any

from vtsr.errors import ModelError

REPORTED_MESSAGES = 3  # in an error


def make_logger(trt: Any) -> Any:
    """A TensorRT logger that keeps warnings and errors in ``messages``: a list of (severity name, text)."""

    class Collector(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR, trt.ILogger.WARNING):
                self.messages.append((str(severity).rsplit(".", 1)[-1], str(message).strip()))

        def errors(self) -> list[str]:
            return [text for severity, text in self.messages if severity.endswith("ERROR")]

    return Collector()


_LOGGERS: dict[int, Any] = {}


def process_logger(trt: Any) -> Any:
    """The one logger of this process: TensorRT keeps the first it is given for ever."""
    if id(trt) not in _LOGGERS:
        _LOGGERS[id(trt)] = make_logger(trt)
    return _LOGGERS[id(trt)]


def explain(what: str, logger: Any, since: int = 0, details: list[str] | None = None) -> ModelError:
    """A `ModelError` with what TensorRT said about it."""
    said = [*(details or []), *(text for kind, text in logger.messages[since:] if kind.endswith("ERROR"))]
    lines = list(dict.fromkeys(" ".join(text.split()) for text in said))[:REPORTED_MESSAGES]
    return ModelError(f"{what}: {'; '.join(lines) or 'TensorRT gave no reason'}.".replace("..", "."))
