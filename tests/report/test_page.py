"""The report: one page that needs no network, with the runs' numbers in it."""

import base64
import gzip
import json
import re
import shutil
import subprocess

import numpy as np
import plotly.graph_objects
import pytest
import toys
from made_runs import made
from toys import own

import rljax
from rljax import cli
from rljax.report import page, runs, statistics
from rljax.report.figures import COLOURS
from rljax.report.rollouts import Rollout

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
RNG = np.random.default_rng(0)
RISING = np.linspace(0, 50, 5) + RNG.normal(0, 5, (8, 5))


def random_of(entry):
    return 12.5


@pytest.fixture(scope="module")
def folders(template, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    lower = made(template, out / "lower", RISING, command="rljax train own.py --out runs/lower <&>")
    return [lower, made(template, out / "higher", RISING + 30, recipe={**recipe(template), "fields": None})]


def recipe(template):
    return json.loads((template / "config.json").read_text())["recipe"]


@pytest.fixture(scope="module")
def report(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    played = Rollout(b"GIF89a", np.array([0, 1, 1, 1]), rljax.Discrete(2))
    return page.write(runs.read(folders), path, random_of, {}, {"lower": played})


@pytest.fixture(scope="module")
def figures(report):
    return figures_of(report.read_text())


def figures_of(text):
    """The figures by their titles."""
    packed = re.search(r'id="figures">([^<]*)<', text)[1]
    found = json.loads(gzip.decompress(base64.b64decode(packed)))
    titles = dict(re.findall(r"<h3>([^<]*)</h3><div class='figure' id='(figure-\d+)'", text))
    assert set(titles.values()) == set(found)
    return {title: found[name] for title, name in titles.items()}


def test_curves_have_the_iqm_its_interval_every_seed_and_the_random_policy(figures):
    figure = figures["greedy return in walk"]
    names = [trace.get("name") for trace in figure["data"]]
    assert names == ["lower, seeds", None, None, "lower", "higher, seeds", None, None, "higher", "random policy (12.5)"]
    seeds, low, high, middle = figure["data"][:4]
    assert seeds["meta"]["is_seeds"]
    whole = np.array(seeds["y"], float).reshape(8, 6)
    np.testing.assert_allclose(whole[:, :5], RISING, rtol=1e-4)
    assert np.isnan(whole[:, 5]).all()  # gaps between seeds
    assert seeds["customdata"] == np.repeat(np.arange(8), 6).tolist()
    assert middle["x"] == low["x"] == [0, 100, 200, 300, 400]
    np.testing.assert_allclose(middle["y"], statistics.interquartile_mean(RISING), rtol=1e-4)
    expected = statistics.bootstrap_interval(RISING, resamples=500)
    np.testing.assert_allclose([low["y"], high["y"]], expected, rtol=1e-4)
    assert high["fill"] == "tonexty"
    assert figure["data"][-1]["y"] == [12.5, 12.5]
    assert not figure["layout"]["meta"]["can_be_log"]  # some returns are negative


def test_x_axes_are_env_steps_and_seconds(figures, folders):
    entry = runs.read(folders)[0]
    middle = figures["greedy return in walk"]["data"][3]
    np.testing.assert_allclose(
        middle["meta"]["axes"]["seconds"], np.array(middle["x"]) * entry.seconds_per_step, rtol=1e-3
    )
    assert "episodes" not in middle["meta"]["axes"]  # the toy does not count them


def test_the_training_return_is_that_of_the_metrics(figures, folders):
    entry = runs.read(folders)[0]
    seeds, *_ = figures["training return in walk, with exploration"]["data"]
    whole = np.array(seeds["y"], float).reshape(len(entry.seeds), -1)[:, :-1]
    np.testing.assert_allclose(whole[:6], entry.metrics["episode_return"][:6], rtol=1e-4)


def test_profiles_and_improvements_are_those_of_the_statistics(figures, folders):
    first, second = (entry.final for entry in runs.read(folders))
    lines = [trace for trace in figures["performance profile in walk"]["data"] if "name" in trace]
    for trace, final in zip(lines, (first, second), strict=True):
        np.testing.assert_allclose(trace["y"], (final[:, None] > np.array(trace["x"])).mean(axis=0), atol=1e-4)
    (point,) = figures["probability that higher improves on in walk"]["data"]
    assert point["y"] == ["lower"]
    np.testing.assert_allclose(point["x"], [statistics.probability_of_improvement(second, first)], rtol=1e-4)


def test_every_figure_is_valid_for_plotly(figures):
    for figure in figures.values():
        plotly.graph_objects.Figure(figure)


def test_the_page_has_tables_commands_differences_and_rollouts(report, folders):
    text = report.read_text()
    summary = statistics.summarize(RISING[:, -1])
    low, high = summary["ci95"]
    assert f"<td>{summary['iqm']:.1f}</td><td>{low:.1f} to {high:.1f}</td>" in text
    assert "<pre>rljax train own.py --out runs/lower &lt;&amp;&gt;</pre>" in text
    assert "started in Python by rljax.run, with custom code" in text
    assert "There are none." in text  # differences between the configs
    assert f"src='data:image/gif;base64,{base64.b64encode(b'GIF89a').decode()}'" in text
    assert "yes, in pairs" in text


def test_the_page_refers_to_nothing_outside(report):
    text = report.read_text()
    assert re.findall(r"(?:src|href)=[\"']?(?!data:|[\"'])[^\s>]*", text) == []
    assert "default-src 'none'" in text
    assert len(text) < 2.5e6


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two fields, one of them of names, of a run that repeats none of its values."""
    out = tmp_path_factory.mktemp("sweep") / "grid"
    config = own.Config(env=toys.walk, num_updates=4)
    values = {"rate": [0.01, 0.1, 1.0], "poison_at": [10, 20]}
    rljax.run(own, config, sweep=values, seeds=2, evaluations=1, eval_episodes=2, progress=False, out=out)
    return out


def test_a_sweep_has_a_heat_map_and_parallel_coordinates(sweep, tmp_path):
    entries = runs.read([sweep])
    text = page.write(entries, tmp_path / "x.html", lambda _: None, {}).read_text()
    found = figures_of(text)
    (cells,) = found["IQM return by rate and poison_at"]["data"]
    assert (cells["x"], cells["y"]) == (["0.01", "0.1", "1"], ["10", "20"])
    expected = np.array([statistics.score(entry.final) for entry in entries]).reshape(3, 2).T
    np.testing.assert_allclose(cells["z"], expected, rtol=1e-4)
    (lines,) = found["parallel coordinates: drag along an axis to select configurations"]["data"]
    rate, poison, returns = lines["dimensions"]
    np.testing.assert_allclose(rate["values"], np.log10([0.01, 0.01, 0.1, 0.1, 1, 1]))
    assert rate["ticktext"] == ["0.01", "0.1", "1"]
    assert poison["values"] == [10, 20] * 3
    np.testing.assert_allclose(returns["values"], expected.T.ravel(), rtol=1e-4)
    assert "its code is a custom one" in text
    for figure in found.values():
        plotly.graph_objects.Figure(figure)


def test_several_environments_have_normalised_scores(template, tmp_path):
    """A method has the same colour in all environments, and another dash in shared figures."""
    pong = {"a": np.full(6, 14.6), "b": np.full(6, -20.7)}
    names = [f"{name}={made(template, tmp_path / f'pong_{name}', pong[name], env='ALE/Pong-v5')}" for name in pong]
    names += [f"{name}={made(template, tmp_path / f'walk_{name}', pong[name] + 1)}" for name in pong]
    entries = runs.read(names)
    text = page.write(entries, tmp_path / "x.html", lambda _: 0.0, {"walk": 15.6}).read_text()
    assert "<td>a</td><td>2 x 6</td><td>1.000</td>" in text
    found = figures_of(text)
    scores = {
        trace["name"]: trace["y"]
        for trace in found["performance profile of normalised scores"]["data"]
        if "name" in trace
    }
    assert scores["a"][50] == 1.0
    lines = {
        trace["name"]: trace["line"]
        for trace in found["training return in walk, with exploration"]["data"]
        if "name" in trace
    }
    assert lines["a"]["color"] == COLOURS[0]
    assert lines["b"]["color"] == COLOURS[1]
    without = page.write(entries, tmp_path / "y.html", lambda _: None, {}).read_text()
    assert "There are no normalised scores. The return that counts as 1 in walk is not known" in without


def test_action_values_are_drawn_next_to_what_they_would_be(template, tmp_path):
    """CartPole with one reward a step: from the t-th of L steps, (1 - g^(L - t)) / (1 - g)."""
    folder = made(template, tmp_path / "x", [1.0, 2.0], config={**config_of(template), "discount": 0.9})
    head = "run,update,env_steps,action_value,episode_length,episode_return,episodes,choice_0,choice_1"
    rows = [f"{run},{update},{10 * update},7.5,5,5,2,0.25,0.75" for update in (1, 2) for run in (0, 1)]
    (folder / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    found = figures_of(page.write(runs.read([folder]), tmp_path / "x.html", lambda _: None, {}).read_text())
    lines = {
        trace["name"]: trace["y"]
        for trace in found["action values against the realised return"]["data"]
        if "name" in trace
    }
    true = np.mean([(1 - 0.9**left) / 0.1 for left in range(1, 6)])
    np.testing.assert_allclose(lines["x"], [7.5, 7.5])
    np.testing.assert_allclose(lines["x, discounted return of its episodes"], [true, true], rtol=1e-4)
    choices = {trace["name"]: trace["y"] for trace in found["choice of x"]["data"]}
    assert choices == {"0": [0.25, 0.25], "1": [0.75, 0.75]}
    seeds = found["training return in walk, with exploration"]["data"][0]
    assert seeds["meta"]["axes"]["episodes"][:2] == [2, 4]


def test_the_diagnostics_share_one_legend(template, tmp_path):
    """A box for each run, whose value is what the page's script hides lines by."""
    folders = [made(template, tmp_path / name, [1.0, 2.0]) for name in ("one", "other")]
    for folder in folders:
        rows = [f"{run},{update},{10 * update},{update}" for update in (1, 2) for run in (0, 1)]
        (folder / "metrics.csv").write_text("\n".join(["run,update,env_steps,entropy", *rows, ""]))
    text = page.write(runs.read(folders), tmp_path / "x.html", lambda _: None, {}).read_text()
    assert re.findall(r"<input type='checkbox' checked value='([^']*)'>", text) == ["one", "other"]
    entropy = figures_of(text)["entropy of the policy"]
    assert {trace["legendgroup"] for trace in entropy["data"]} == {"one", "other"}
    assert not entropy["layout"]["showlegend"]


def test_episodes_of_seeds_that_were_cut_short_do_not_bend_a_curve(template, tmp_path):
    """Of three seeds two end after one of three updates: the curve is that of the third, at its own episodes."""
    folder = made(template, tmp_path / "x", [[1.0, 2.0], [1.0, np.nan], [1.0, np.nan]])
    head = "run,update,env_steps,episode_return,episodes"
    rows = ["0,1,10,5,2", "0,2,20,6,2", "0,3,30,7,2", "1,1,10,1,1", "2,1,10,1,1"]
    (folder / "metrics.csv").write_text("\n".join([head, *rows, ""]))
    found = figures_of(page.write(runs.read([folder]), tmp_path / "x.html", lambda _: None, {}).read_text())
    (curve,) = [one for one in found["training return in walk, with exploration"]["data"] if one.get("name") == "x"]
    assert curve["y"] == [5, 6, 7]
    assert curve["meta"]["axes"]["episodes"] == [2, 4, 6]


def config_of(template):
    return json.loads((template / "config.json").read_text())["config"]


def test_the_command_line_writes_a_report(folders, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", *map(str, folders)]) == 0
    assert capsys.readouterr().out == "The report is in report.html\n"
    assert (tmp_path / "report.html").stat().st_size > 1e6
    assert cli.main(["report", str(folders[0]), "--out", str(tmp_path)]) == 2
    assert cli.main(["report", str(folders[0]), "--out", "report.html/x.html"]) == 2
    assert cli.main(["report", "nowhere"]) == 2
    sentences = capsys.readouterr().err.splitlines()
    assert len(sentences) == 3
    assert "is a folder: name a file in it" in sentences[0]
    assert "cannot be created" in sentences[1]


def test_code_is_imported_only_if_it_is_named_again_or_trusted(template, tmp_path, capsys, monkeypatch):
    """The folder names a file; importing it would leave a trace."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import pathlib, toys\npathlib.Path('imported').touch()\nwalk = toys.walk\n", encoding="utf-8"
    )
    references = {"algorithm": None, "env": [str(tmp_path / "mine.py") + ":walk"]}
    folder = made(template, tmp_path / "x", [1.0] * 5, recipe={**recipe(template), "references": references})
    asked = []
    monkeypatch.setattr(rljax.report.scores, "random_return", lambda env: asked.append(env) or 3.0)
    assert cli.main(["report", str(folder)]) == 0
    assert not (tmp_path / "imported").exists()
    assert "or pass --trust" in (tmp_path / "report.html").read_text()
    for option in (["--trust"], ["--env", "mine.py:walk"]):
        assert cli.main(["report", str(folder), *option]) == 0
        assert (tmp_path / "imported").exists()
        (tmp_path / "imported").unlink()
        assert "or pass --trust" not in (tmp_path / "report.html").read_text()
    assert len(asked) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_a_browser_draws_every_figure_without_an_error(report, figures):
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--window-size=1200,20000"]
    done = subprocess.run(
        [CHROMIUM, *options, "--virtual-time-budget=60000", "--dump-dom", report.as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert done.stdout.count('data-drawn="yes"') == len(figures)
    assert done.stdout.count('class="main-svg"') >= len(figures)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
