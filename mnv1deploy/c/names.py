"""The name that all symbols and files of an exported network begin with."""

import re

HEADERS = {
    *("assert", "complex", "ctype", "errno", "fenv", "float", "inttypes", "iso646", "limits", "locale", "math"),
    *("setjmp", "signal", "stdalign", "stdarg", "stdatomic", "stdbool", "stddef", "stdint", "stdio", "stdlib"),
    *("stdnoreturn", "string", "tgmath", "threads", "time", "uchar", "wchar", "wctype"),
    *("aio", "cpio", "dirent", "dlfcn", "fcntl", "fmtmsg", "fnmatch", "ftw", "glob", "grp", "iconv", "langinfo"),
    *("libgen", "libintl", "monetary", "mqueue", "ndbm", "netdb", "nl_types", "poll", "pthread", "pwd", "regex"),
    *("sched", "search", "semaphore", "spawn", "strings", "stropts", "syslog", "tar", "termios", "trace", "ulimit"),
    *("unistd", "utime", "utmpx", "wordexp"),
    *("alloca", "byteswap", "elf", "endian", "err", "error", "features", "getopt", "link", "malloc", "memory"),
    *("newlib", "reent", "arduino", "sdkconfig", "conio", "direct", "io", "process", "windows"),
}
"""Of C, POSIX, C libraries and SDKs, which include these themselves: one of that name beside them would hide it."""

CRATES = {
    *("abstract", "alloc", "as", "async", "await", "become", "box", "break", "const", "continue", "core", "crate"),
    *("do", "dyn", "else", "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop"),
    *("macro", "match", "mod", "move", "mut", "override", "priv", "proc_macro", "pub", "ref", "return", "self"),
    *("static", "std", "struct", "super", "trait", "true", "try", "type", "typeof", "unsafe", "unsized", "use"),
    *("virtual", "where", "while", "yield"),
}
"""Rust's own, and its keywords, which no crate can be called."""

TARGETS = {"all", "clean", "edit_cache", "help", "install", "package", "package_source", "rebuild_cache", "test"}
"""CMake's own."""

TAKEN = {"example", "main"} | HEADERS | CRATES | TARGETS
"""What a network cannot be called in the packages that it is exported as; the first two are files of programs."""


def identifier(name: str) -> str:
    """A network's name as a C identifier: ``mobilenetv1_cifar10``; what C does not have in one becomes ``_``."""
    found = re.sub("[^A-Za-z0-9]+", "_", name).strip("_")
    if not found or found[0].isdigit():
        return f"network_{found}".rstrip("_")
    return f"{found}_network" if found.lower() in TAKEN else found
