"""The page of the playground: a table, and for each environment chips of metrics and a spark line."""

import base64
import html
import io
from typing import Any

import numpy as np

from rljax.report import plot

# Of lines, on white and on black; colour-blind people can tell them apart (Okabe and Ito 2008).
_COLOURS = ("#7f7f7f", "#e69f00", "#3b8fd6", "#009e73", "#cc79a7")

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c1f24; --dim: #5b626d; --line: #d9dde3; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14161a; --card: #1e2127; --text: #e8eaed; --dim: #a2a9b4; --line: #363b44; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1rem; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0.5rem 0; } h2 { font-size: 1.05rem; margin: 0 0 0.5rem; overflow-wrap: anywhere; }
p { color: var(--dim); }
.cards { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
.card, .scroll { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 0.9rem; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:nth-child(-n+2), td:nth-child(-n+2) { text-align: left; }
img { width: 100%; height: auto; display: block; }
.policy { margin-top: 0.6rem; font-weight: 600; overflow-wrap: anywhere; }
.policy i { display: inline-block; width: 0.8em; height: 0.8em; border-radius: 50%; margin-right: 0.4em; }
.chips { display: flex; flex-wrap: wrap; gap: 0.3rem; }
.chip { border: 1px solid var(--line); border-radius: 999px; padding: 0 0.6rem; font-size: 0.85rem; }
.chip b { font-variant-numeric: tabular-nums; }
"""


def page(results: list[dict[str, Any]], episodes: int, max_steps: int) -> str:
    """The page, which needs no other file."""
    policies = list(dict.fromkeys(one["policy"] for one in results))
    colours = {policy: _COLOURS[i % len(_COLOURS)] for i, policy in enumerate(policies)}
    environments: dict[str, list[dict[str, Any]]] = {}
    for one in results:
        environments.setdefault(one["env_id"], []).append(one)
    cards = "".join(_card(env, played, colours) for env, played in environments.items())
    about = (
        f"{_count(len(policies), 'policy', 'policies')} in {_count(len(environments), 'environment')}, "
        f"{_count(episodes, 'episode')} of at most {max_steps:,} steps each. "
        f"Played on {results[-1]['generated_at'][:16].replace('T', ' at ')} UTC. "
        "A spark line has the returns of the episodes from the worst to the best."
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'><title>rljax playground</title>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'><link rel='icon' href='data:,'>"
        f"<style>{_STYLE}</style></head><body><h1>Playground</h1><p>{about}</p>"
        f"<div class='scroll'>{_table(results)}</div><div class='cards'>{cards}</div></body></html>\n"
    )


def _count(number: int, one: str, several: str = "") -> str:
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def _metrics(one: dict[str, Any]) -> dict[str, str]:
    length = np.mean([episode["length"] for episode in one["episodes"]])
    return {
        "average": f"{one['average_return']:.4g}",
        "best": f"{one['best_return']:.4g}",
        "worst": f"{one['worst_return']:.4g}",
        "reward per step": f"{one['reward_per_step']:.3g}",
        "length": f"{length:.4g}",
    }


def _table(results: list[dict[str, Any]]) -> str:
    heads = ["environment", "policy", *_metrics(results[0])]
    rows = [[one["env_id"], one["policy"], *_metrics(one).values()] for one in results]
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _card(env: str, played: list[dict[str, Any]], colours: dict[str, str]) -> str:
    parts = []
    for one in played:
        name = f"<i style='background:{colours[one['policy']]}'></i>{html.escape(one['policy'])}"
        chips = "".join(f"<span class='chip'>{name} <b>{text}</b></span>" for name, text in _metrics(one).items())
        parts.append(f"<div class='policy'>{name}</div><div class='chips'>{chips}</div>")
    line = _spark_line(played, colours)
    return f"<section class='card'><h2>{html.escape(env)}</h2>{line}{''.join(parts)}</section>"


def _spark_line(played: list[dict[str, Any]], colours: dict[str, str]) -> str:
    """The returns of each policy's episodes, from the worst to the best, as an image within the page."""
    figure = plot.picture(3.2, 0.7)
    axes = figure.add_subplot()
    for width, one in zip(np.linspace(3.2, 1.4, len(played)), played, strict=True):  # equal ones remain visible
        returns = np.sort([episode["return"] for episode in one["episodes"]])
        axes.plot(returns, color=colours[one["policy"]], linewidth=width, marker="." if len(returns) == 1 else None)
    axes.set_axis_off()
    axes.margins(y=0.1)
    written = io.StringIO()
    figure.savefig(written, format="svg", transparent=True)
    data = base64.b64encode(written.getvalue().encode()).decode()
    return f"<img alt='returns of {html.escape(played[0]['env_id'])}' src='data:image/svg+xml;base64,{data}'>"
