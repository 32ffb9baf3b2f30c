"""Errors a caller may want to catch. Each message is one sentence that says what was wrong and what to do."""


class VtsrError(Exception):
    """Base of every error this package raises on purpose; the command line turns it into exit code 2."""


class InputError(VtsrError):
    """The input cannot be used: missing, unreadable, empty, or of a changing size."""


class OutputError(VtsrError):
    """The output cannot be written: no such folder, no permission, disk full, or it is the input."""


class OptionError(VtsrError, ValueError):
    """An argument is outside its range or does not go with another one."""


class ModelError(VtsrError):
    """A model file is missing, damaged or not one of ours."""


class DeviceError(VtsrError):
    """The GPU cannot be used or refused an operation; the message names the call."""


class MissingExtraError(VtsrError, ImportError):
    """An optional dependency is needed; the message names the extra that installs it."""
