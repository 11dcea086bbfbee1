"""The name that all symbols and files of an exported network begin with."""

import re

TAKEN = {"example"} | {
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math"),
    *("setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib"),
    *("stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype"),
}
"""The example's file, and the headers of C, which a header of that name would hide."""


def identifier(name: str) -> str:
    """A network's name as a C identifier: ``mobilenetv1_cifar10``; what C does not have in one becomes ``_``."""
    found = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
    if not found or found[0].isdigit():
        return f"network_{found}".rstrip("_")
    return f"{found}_network" if found.lower() in TAKEN else found
