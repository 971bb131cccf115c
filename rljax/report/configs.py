"""What differs between the configs of runs, and the commands that made them."""

from collections.abc import Iterator, Sequence
from typing import Any

from rljax.experiment import remote
from rljax.report.runs import Entry


def fields(entries: Sequence[Entry]) -> tuple[list[list[str]], list[list[str]]]:
    """Rows of the fields that differ, with the value of each entry, and rows of the others, with their one value."""
    flat = [dict(_flat(entry.config)) | {"seed": entry.recorded.options.seed} for entry in entries]
    keys = list(dict.fromkeys(key for one in flat for key in one))
    rows = [[key, *(_value(one.get(key, "-")) for one in flat)] for key in keys]
    same = [len(set(row[1:])) == 1 for row in rows]
    pairs = list(zip(rows, same, strict=True))
    return [row for row, is_same in pairs if not is_same], [row[:2] for row, is_same in pairs if is_same]


def command(entry: Entry) -> str:
    """The command that started a run, or for one that was started in Python the one that repeats it."""
    recorded, place = entry.recorded, remote.named(entry.folder)
    if recorded.command is not None:
        return recorded.command
    if recorded.sweep is None and recorded.recipe["algorithm"] and recorded.recipe["env"] and recorded.recipe["fields"]:
        return f"rljax train --config {place}/config.json    # started in Python; this repeats it"
    kind = "a sweep" if recorded.sweep is not None else "custom code"
    return f"# started in Python by rljax.run, with {kind}; `rljax resume {place}` continues it"


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a described config, by path; without the recipe of an environment, which repeats them."""
    if isinstance(value, dict) and value:
        for name, inner in value.items():
            if not (path.rpartition(".")[2] == "env" and name in ("recipe", "wrappers", "name")):
                yield from _flat(inner, f"{path}.{name}".lstrip("."))
    else:
        yield path, value


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:80]}..."
