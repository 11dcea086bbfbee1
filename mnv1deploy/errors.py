"""The one exception family for everything a user can cause, and how its sentences call options."""


class MnvError(Exception):
    """Something the user can mend: one clear sentence, and what to do about it.

    Args:
        message: what is wrong, in one sentence.
        hint: what to do about it, in one sentence; may be empty.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    @staticmethod
    def reason(error: BaseException) -> str:
        """The first line of another exception's message, for use in one of ours; its type where it has none."""
        return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()


def flag(option: str) -> str:
    """How an option of Python's is written on the command line: ``batch_size`` is ``--batch-size``."""
    return "--" + option.replace("_", "-")
