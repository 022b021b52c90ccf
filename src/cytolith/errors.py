"""The few exceptions that a user can meet; each carries one line that names what is wrong and the fix."""


class CytolithError(Exception):
    """Base of all errors that are a user's to mend; its text is one line, shown without a traceback."""


class VolumeError(CytolithError):
    """An input that cannot be read as one volume: names the file, the plane or the option."""


class ConfigError(CytolithError):
    """A parameter that is unknown, of a wrong kind or out of range: names the option and the fix."""


class OutputError(CytolithError):
    """A result that cannot be written: names the path."""


class MemoryBudgetError(CytolithError):
    """The memory given does not hold one block: names the smallest budget that would do."""
