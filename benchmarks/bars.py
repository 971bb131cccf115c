"""Compare measured speed with its bars: `python benchmarks/bars.py` writes `SPEED.md` from `results/`."""

import argparse
import functools
import pathlib
from typing import Any, NamedTuple

import script
from peers import MIXED, PER_CORE, README

from rljax.errors import UsageError

HERE = pathlib.Path(__file__).parent


class Bar(NamedTuple):
    """One line of the table: the work, the bar it must reach, the aim beyond it, the measurement and its source."""

    work: str
    bar: str
    aim: str
    measured: str
    met: str
    source: str
    mixed: str = ""  # the measurement in mixed precision


def yes(met: bool) -> str:
    """Return "yes" if a bar is met, else "no"."""
    return "yes" if met else "no"


def results(name: str, folder: str = "") -> Any:
    """Read a file of results; None if it does not exist. Every machine except the first has its own folder."""
    return script.read(HERE / "results" / folder / f"{name}.json")


def against_peers(folder: str, task: str, way: str, work: str, bar: float, aim: float, source: str = "") -> Bar | None:
    """Speed of rljax, run as in its README, divided by that of the fastest peer run in the given way."""
    rows = (results("peers", folder) or {}).get(task, {}).get("rows", [])
    rivals = [row for row in rows if row["peer"] != "rljax" and row["way"] == way and "times_as_fast_is_rljax" in row]
    if not rivals:
        return None
    fastest = max(rivals, key=lambda row: row["env_steps_per_second"])
    ratio = fastest["times_as_fast_is_rljax"]
    source = source or f"{fastest['peer']}, {'as in its README' if way == README else way}"
    mixed = in_mixed_precision(rows, ratio)
    met = "yes" if ratio >= bar else "in mixed precision" if mixed is not None and mixed >= bar else "no"
    return Bar(work, f"{bar:g}x", f"{aim:g}x", f"{ratio:.2f}x", met, source, "" if mixed is None else f"{mixed:.2f}x")


def in_mixed_precision(rows: list[dict[str, Any]], ratio: float) -> float | None:
    """The ratio of speeds with rljax in mixed precision; None if that was not measured."""
    ours = (row.get("times_as_fast_is_rljax") for row in rows if (row["peer"], row["way"]) == ("rljax", MIXED))
    return next((ratio / times for times in ours if times is not None), None)


def on_cpu(folder: str) -> list[Bar]:
    """The lines of a CPU, for all results on disk."""
    against = functools.partial(against_peers, folder)
    bars: list[Bar | None] = [
        against("ppo_cartpole", README, "PPO CartPole 4 x 128, one seed", 1.5, 2.5),
        against("ppo_cartpole_many", README, "the same, 64 seeds", 1.6, 2.5),
        against("ppo_cartpole_many", PER_CORE, "the same, 64 seeds", 1.25, 1.8),
        against("dqn_cartpole", README, "DQN CartPole, one seed", 2, 4),
        against("dqn_cartpole_many", README, "the same, 64 seeds", 2, 4),
        against("sac_pendulum", README, "SAC Pendulum, buffer 1M", 10, 20),
        against("ppo_breakout", README, "PPO Breakout-MinAtar, one seed", 1.3, 2),
        against("random_cartpole", README, "1,024 CartPoles, random policy", 2.5, 5, "gymnax's `step`"),
    ]
    tables, compiling, throughput = (results(name, folder) for name in ("tables", "compiling", "throughput"))
    if tables is not None:
        bars.append(of_tables(tables))
    for row in (throughput or {"rows": []})["rows"]:
        if (row["algorithm"], row["environment"], row["seeds"]) == ("ppo", "CartPole-v1", 64):
            part = row["of_products"]
            work = "PPO CartPole, 64 seeds, of the floor"
            bars.append(Bar(work, "35%", "60%", f"{part:.0%}", yes(part >= 0.35), "large matrix products, all cores"))
    if compiling is not None:
        cold, cached = compiling["cold"]["seconds"], compiling["cached"]["seconds"]
        met = yes(cold <= 8 and cached <= 1.5)
        bars.append(
            Bar(
                "compile a whole PPO run",
                "8 s / 1.5 s",
                "4 s / 0.7 s",
                f"{cold:.1f} s / {cached:.1f} s",
                met,
                "cold / cached",
            )
        )
    return [bar for bar in bars if bar is not None]


def on_gpu(folder: str) -> list[Bar]:
    """The lines of a GPU, for all results on disk."""
    tables, thousands, peers = (results(name, folder) for name in ("tables", "thousands", "peers"))
    bars = []
    if thousands is not None:
        work = f"PPO CartPole, {thousands['agents']:,} agents of {thousands['env_steps_of_each']:,} steps"
        times = thousands["times_the_claim"]
        source = f"{thousands['claim']['source']}, on an {thousands['claim']['device']}"
        bars.append(Bar(work, "2x", "10x", f"{times:.2f}x", yes(times >= 2), source))
    rows = (peers or {}).get("ppo_cartpole_many", {}).get("rows", [])
    for row in rows:
        if row["peer"] != "rljax" and "times_as_fast_is_rljax" in row:
            work = f"PPO CartPole, {row['seeds']:,} agents of {row['env_steps'] // row['seeds']:,} steps"
            times, mixed = row["times_as_fast_is_rljax"], in_mixed_precision(rows, row["times_as_fast_is_rljax"])
            source, in_mixed = f"{row['peer']} on the same GPU", "" if mixed is None else f"{mixed:.2f}x"
            bars.append(Bar(work, "1x", "", f"{times:.2f}x", yes(times >= 1), source, in_mixed))
    return bars if tables is None else [*bars, of_tables(tables)]


def of_tables(tables: dict[str, Any]) -> Bar:
    """The line for ten thousand tables."""
    times, work = tables["times_as_fast"], f"tabular Q-learning on FrozenLake, {tables['agents']:,} agents"
    return Bar(work, "1,000x", "10,000x", f"{times:,.0f}x", yes(times >= 1000), "a NumPy loop of one agent")


def page(bars: list[Bar]) -> str:
    """Format the lines as a Markdown table."""
    head = "| work | against | bar | aim | measured | in mixed precision | met |\n|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {b.work} | {b.source} | {b.bar} | {b.aim} | {b.measured} | {b.mixed} | {b.met} |" for b in bars
    )


def devices(folder: str) -> list[tuple[int, str]]:
    """Cores and device of a folder's results; more than one pair means that several machines were used."""
    tasks = (results("peers", folder) or {}).values()
    pairs = [(task["cores"], row["device"]) for task in tasks for row in task["rows"][:1] if "device" in row]
    for name in ("throughput", "scaling"):
        known = results(name, folder)
        pairs += [] if known is None else [(known["cores"], known["device"])]
    return list(dict.fromkeys((cores, device.split(" x ")[-1]) for cores, device in pairs))


def is_of_cpu(folder: str) -> bool:
    """True if a folder holds the results of a CPU."""
    names = {(results(name, folder) or {}).get("device") for name in ("tables", "compiling")}
    return "cpu" in names or any(device == "cpu" for _, device in devices(folder))


def section(folder: str) -> str:
    """The table of one machine under its name; empty if there are no results."""
    known = devices(folder)
    title = " and ".join(f"{device.upper()} of {cores} cores" for cores, device in known)
    if not folder:
        bars = on_cpu(folder)
    elif is_of_cpu(folder):
        bars, title = on_cpu(folder), ", ".join(part for part in (folder.upper(), title) if part)
    else:
        bars, title = on_gpu(folder), folder.upper()
    return f"## {title}\n\n{page(bars)}\n" if bars else ""


def main(arguments: list[str]) -> None:
    """Write SPEED.md."""
    argparse.ArgumentParser(description=str(__doc__).splitlines()[0]).parse_args(arguments)
    folder = HERE / "results"
    machines = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    tables = [text for text in map(section, ["", *machines]) if text]
    if not tables:
        raise UsageError(f"There are no results in {folder}: measure them with rljax bench, or restore them from git.")
    (HERE / "SPEED.md").write_text(f"""# Speed: bars and measurements

Written by `python benchmarks/bars.py` from `results/`. Each line compares medians that were measured in turns in one
run, except purejaxrl's, which is a claim for another GPU. 1,024 CartPoles are compared with gymnax, whose environment
it is; [PEERS.md](PEERS.md) has Gymnasium's vectorised code for this environment, the differences between the libraries
and the returns that each library reaches. A missed bar stays in the table. With `mixed_precision=True` layers multiply
in bfloat16 and sum in float32, which is several times as fast on a CPU with AMX and slower on an EPYC;
[LEARNING.md](LEARNING.md) has the returns with and without it. Peers are faster with one thread on a CPU too:
[PEERS.md](PEERS.md) has both ways for every library. [NOTES.md](NOTES.md) shows how far the ratios vary with the
machine, by a quarter to a half, and what arithmetic allows for the missed bars. The first table is for an Intel Xeon
with AMX; EPYC is an AMD without it ([its peers](results/epyc/PEERS.md), without the PyTorch libraries, which are the
slowest).

{chr(10).join(tables)}""")
    print(f"written to {HERE / 'SPEED.md'}")


if __name__ == "__main__":
    script.run(main, "nothing is written.")
