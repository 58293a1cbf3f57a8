"""Errors that end in one clear line for the user."""


class PyengineError(ValueError):
    """Bad input, settings or files; its message is one line that says what to do."""


class Interrupted(PyengineError):
    """The user stopped a command; the message says what is saved and how to go on."""
