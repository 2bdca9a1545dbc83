"""Every error that Corral raises on purpose.

    CorralError
    ├── UsageError          the command line asks for something that cannot be (exit 2)
    ├── PolicyError         corral.toml, or a flag that overrides it, is wrong (exit 2)
    ├── UpstreamError       the inference server did not start, or is not what it should be (exit 3)
    └── TargetError         the scanned endpoint cannot be reached, or may not be scanned (exit 3)

A message says what was wrong, where, and what to write instead. The command line prints it without a traceback and
exits with `exit_code`.
"""


class CorralError(Exception):
    """The root of all errors raised on purpose; `exit_code` is the process status that the command line ends with."""

    exit_code = 1


class UsageError(CorralError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class PolicyError(CorralError):
    """A policy is wrong; the message names the file, the key and the line, and what to write instead."""

    exit_code = 2


class UpstreamError(CorralError):
    """The inference server did not start, or is not what the policy says it is."""

    exit_code = 3


class TargetError(CorralError):
    """The scanned endpoint cannot be reached, or may not be scanned."""

    exit_code = 3
