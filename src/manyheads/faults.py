"""What can go wrong on the user's side; each kind has the exit code of the command line."""

from __future__ import annotations


class Fault(Exception):
    """A mistake or an event the user can act on: what was expected and what was found, with the remedy."""

    exit_code = 1


class ConfigError(Fault, ValueError):
    """Wrong usage or configuration."""

    exit_code = 2


class DataError(Fault, ValueError):
    """Wrong, missing or damaged data or model file.

    Args:
        row: the row that is to blame, counted from 0 in its table; None where it is no single row.
    """

    exit_code = 3

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


class Diverged(Fault, ArithmeticError):
    """Training produced no finite loss any more."""

    exit_code = 4


class GateError(Fault):
    """A demanded quality was not met."""

    exit_code = 5


class MissingExtra(Fault, ImportError):
    """An optional dependency is not installed; the message carries the command that installs it."""

    exit_code = 6

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs the extra `{extra}`. Install it: pip install 'manyheads[{extra}]'")
