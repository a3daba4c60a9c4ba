"""The errors that a person is told about, and nothing else.

DpVllmError
├── UserError          what was asked cannot be done; the message names the thing and the fix; exit status 1
└── BadSettings        a flag, a variable or a file has a value that is not allowed; exit status 2

Everything else is a bug: it reaches the top and is shown with its trace.
"""


class DpVllmError(Exception):
    """Base of all errors that are shown as a sentence."""

    exit_status = 1


class UserError(DpVllmError):
    """What was asked cannot be done; the message says what and how to mend it."""


class BadSettings(DpVllmError):
    """A setting's value is not allowed; the message names the setting, the value and what is allowed."""

    exit_status = 2
