"""What a page carries with it: its style and scripts, packed."""

import base64
import functools
import gzip
import importlib.resources


def asset(name: str) -> str:
    """The text of a file in `assets`."""
    return importlib.resources.files("rljax.report").joinpath("assets", name).read_text(encoding="utf-8")


@functools.cache
def library() -> str:
    """Plotly's script, packed: 2 MB instead of 5."""
    package = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js")
    return packed(package.read_bytes())


def packed(data: bytes) -> str:
    """Data compressed and encoded as text, which the page's script unpacks."""
    return base64.b64encode(gzip.compress(data, mtime=0)).decode()
