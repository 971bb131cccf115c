"""Results as HTML, for notebooks."""

import base64
import io
from typing import Any

from rljax.report import console


def page(summary: dict[str, Any], figure: Any) -> str:
    """The table of a run or a sweep, and its learning curve, if there is a figure."""
    from rich.console import Console

    recorder = Console(record=True, file=io.StringIO(), width=120)
    recorder.print(console.table(summary))
    text = recorder.export_html(inline_styles=True, code_format="<pre style='line-height: 1.2'>{code}</pre>")
    if figure is None:
        return text
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    data = base64.b64encode(picture.getvalue()).decode()
    return f"{text}<img alt='learning curve' src='data:image/png;base64,{data}'>"
