"""Constant arrays in C."""

from collections.abc import Iterator, Sequence


def array(type: str, name: str, values: Sequence[object], *, per_line: int = 16, aligned: bool = True) -> Iterator[str]:
    """Lines of ``static const type name[] = {...};``; ``aligned`` as the network's kernels want theirs."""
    yield f"static const {'ALIGNED ' if aligned else ''}{type} {name}[{len(values)}] = {{"
    for start in range(0, len(values), per_line):
        yield f"    {', '.join(map(str, values[start : start + per_line]))},"
    yield "};"
