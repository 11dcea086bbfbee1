"""What is around the generated C in a browser: a WebAssembly module, an npm package and a page."""

from pathlib import Path

C = Path(__file__).parent / "c"
"""What is compiled with the network: ``module.c``, a template, and the header that it takes of the C library."""

PACKAGE = Path(__file__).parent / "package"
"""The files of an exported folder, but for the modules; those that end in .json, .md or .html are templates."""
