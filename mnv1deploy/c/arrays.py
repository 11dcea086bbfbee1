"""Constant arrays in C."""

from collections.abc import Iterator, Sequence


def array(type: str, name: str, values: Sequence[object], *, per_line: int = 16, aligned: bool = True) -> Iterator[str]:
    """Lines of ``static const type name[] = {...};``; ``aligned`` as the network's kernels want theirs."""
    yield f"static const {'ALIGNED ' if aligned else ''}{type} {name}[{len(values)}] = {{"
    for start in range(0, len(values), per_line):
        some = values[start : start + per_line]
        # of millions of integers a list's own text is several times as quick
        text = str(list(some))[1:-1] if isinstance(some[0], int) else ", ".join(map(str, some))
        yield f"    {text},"
    yield "};"
