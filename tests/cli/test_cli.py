"""The command line as a person meets it: what it prints, writes and returns."""

import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import pytest

import rljax
from rljax import cli
from rljax.cli.parsing import swept
from rljax.experiment import history

ROOT = pathlib.Path(__file__).parents[2]
TINY = ["--total-steps", "128", "--num-envs", "4", "--num-steps", "16", "--hidden-sizes", "8", "--evaluations", "1"]


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def complaint(capsys, *arguments):
    """The exit code is 2 and there is one sentence on standard error, which is returned."""
    assert cli.main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].endswith((".", "?"))
    return lines[0]


def test_a_sweep_may_list_schedules():
    texts = ["piecewise((1e-3,1e-4),(0.5,))", "linear(3e-4, 0)"]
    assert swept(f"learning_rate={texts[0]},2e-3,{texts[1]}") == ("learning_rate", [texts[0], 2e-3, texts[1]])
    assert swept("hidden_sizes=(64,64),(32,)") == ("hidden_sizes", [(64, 64), (32,)])


def test_train_writes_its_files_and_prints_a_table(capsys, tmp_path):
    code = cli.main(
        [
            *("train", "ppo", "--env", "CartPole-v1", "--seeds", "2", *TINY, "--learning-rate", "3e-3"),
            *("--eval-episodes", "4", "--target-kl", "0.1", "--clip", "linear(0.2, 0.1)", "--out", "runs/x"),
        ]
    )
    captured = capsys.readouterr()
    assert code == 0
    assert "IQM return" in captured.out
    assert "worst seed" in captured.out
    about = json.loads((tmp_path / "runs/x/config.json").read_text())
    assert about["config"]["learning_rate"] == 3e-3
    assert about["config"]["target_kl"] == 0.1
    assert about["config"]["discount"] == 0.98  # the preset's, not the default
    assert json.loads((tmp_path / "runs/x/summary.json").read_text())["seeds"] == 2
    assert "already holds results" in complaint(
        capsys, "train", "ppo", "--env", "CartPole-v1", *TINY, "--out", "runs/x"
    )


def test_custom_algorithm_and_custom_environment(capsys, tmp_path):
    algorithm, environment = ROOT / "examples/custom_algorithm.py", ROOT / "examples/custom_environment.py"
    assert len(algorithm.read_text().splitlines()) < 80
    assert len(environment.read_text().splitlines()) < 80
    options = ["--total-steps", "2048", "--evaluations", "1", "--eval-episodes", "2", "--no-progress"]
    assert cli.main(["train", str(algorithm), "--env", f"{environment}:env", *options, "--out", "runs/own"]) == 0
    summary = json.loads((tmp_path / "runs/own/summary.json").read_text())
    assert (summary["algo"], summary["env"]) == ("custom_algorithm", "Target")
    assert summary["env_steps"] == 2048
    assert set(summary["final_measures"]) == {"length", "effort", "distance"}


def test_envs_and_algos_are_listed(capsys):
    assert cli.main(["envs"]) == 0
    listed = capsys.readouterr().out.split()
    assert "CartPole-v1" in listed
    assert len(listed) >= 26
    assert cli.main(["algos"]) == 0
    assert "ppo" in capsys.readouterr().out


def test_version_prints_installed_versions(capsys):
    assert cli.main(["--version"]) == 0
    told = capsys.readouterr().out
    assert f"rljax {importlib.metadata.version('rljax-engine')}, " in told
    assert f"jax {jax.__version__}, " in told


def test_every_field_is_an_option_with_its_docstring(capsys):
    assert cli.main(["train", "ppo", "--help"]) == 0
    text = capsys.readouterr().out
    for words in ("--gae-lambda", "Decay of GAE's trace", "--target-kl", "--seeds", "--eval-episodes", "--out"):
        assert words in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["trian", "train"]),
        (["train"], ["Name the algorithm"]),
        (["train", "ppo", "CartPole-v1"], ["The environment needs its option", "--env CartPole-v1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--learnrate", "1"], ["did you mean --learning-rate"]),
        (["train", "ppo", "--env", "CartPole-v1", "--wrap", "time_limit"], ["--wrap time_limit", "max_steps"]),
        (["train", "ppo", "--env", "CartPole-v1", "--wrap", "tme_limit=3"], ["did you mean time_limit"]),
        (["train", "ppo", "--env", "CartPole-v1", "--config", "x.yaml"], ["x.yaml cannot be read"]),
        (["train", "ppo", "--env", "CartPole-v1", "--log", "tensorbord"], ["tensorboard"]),
        (["train", "ppo", "--env", "CartPole-v1", "--keep", "worst"], ["keep takes last, best, all"]),
        (["train", "ppo", "--env", "CartPole-v1", "--activation", "x"], ["'x'", "tanh", "relu", "silu"]),
        (["train", "ppo", "--env", "CartPole-v1", "--recurrent", "gruu"], ["recurrent must be one of gru, lstm"]),
        (
            ["train", "dqn", "--env", "CartPole-v1", "--head", "c52"],
            ["one of expected, categorical, quantile"],
        ),
        (["train", "q_learning", "--env", "Taxi-v3", "--target", "td"], ["one of q_learning, sarsa, expected_sarsa"]),
        (["train", "ppo", "--env", "CartPole-v1", "--eval-policy", "x"], ["eval_policy", "greedy, stochastic"]),
        (["train", "ppo", "--env", "CartPole-v1", "--eval-env", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--eval-env", "Pendulum-v1"], ["has Box[3] float32, from -8 to 8"]),
        (["train", "ppo", "--env", "CartPole-v1", "--eval-env", "no.py:env"], ["no.py"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.gravity"], ["--env.gravity needs one value"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.gravty", "5"], ["gravty", "gravity"]),
        (["train", "ppo", "--env", f"{ROOT}/tests/toys.py:walk", "--env.hight=5"], ["hight", "height"]),
        (["train", "ppo", "--env", "CartPole-v1", "--sweep", "hidden_sizes=64,128"], ["tuples, such as (64, 64)"]),
        (["train", "ppo", "--env", "CartPole-v1", "--sweep", "clip=uniform(1,2)"], ["--samples 16"]),
        (["train", "ppo", "--env", "CartPole-v1", "--memory-limit", "0.5"], ["memory_limit", "'0.5'"]),
        (["train", "pppo", "--env", "CartPole-v1"], ["pppo", "did you mean ppo?"]),
        (["train", "ppo"], ["Name the environment"]),
        (["train", "ppo", "--env", "CartPol-v1"], ["CartPol-v1", "CartPole-v1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--lerning-rate", "1e-3"], ["--lerning-rate", "--learning-rate"]),
        (["train", "ppo", "--env", "CartPole-v1", "--learning-rate", "fast"], ["learning_rate", "fast"]),
        (["train", "ppo", "--env", "CartPole-v1", "--learning-rate", "-1"], ["learning_rate", "at least 0"]),
        (["train", "ppo", "--env", "CartPole-v1", "--discount", "1.1"], ["discount", "at most 1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--num-minibatches", "7"], ["divide"]),
        (["train", "ppo", "--env", "CartPole-v1", "--seeds", "0"], ["seeds", "at least 1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--num-envs", "0"], ["num_envs", "at least 1"]),
        (["train", "ppo", "--env", "CartPole-v1", "--num-envs", "2.5"], ["num-envs", "2.5"]),
        (["train", "ppo", "--env", "CartPole-v1", "--seeds", "inf"], ["--seeds", "'inf'"]),
        (["train", "ppo", "--env", "CartPole-v1", "--total-steps", "1" * 5000], ["--total-steps", "invalid integer"]),
        (["train", "ppo", "--env", "CartPole-v1", "--hidden-sizes", "64", "inf"], ["hidden-sizes", "'inf'"]),
        (["train", "ppo", "--env", "CartPole-v1", "--recurrent", "rnn"], ["'rnn'", "gru", "lstm"]),
        (["train", "ppo", "--env", "CartPole-v1", "--out", ""], ["out must be the path of a folder"]),
        (["train", "ppo", "--env", "CartPole-v1", "--out", "a\0b"], ["out must be the path of a folder"]),
        (["train", "ppo", "--env", "CartPole-v1", "--config", "x" * 300], ["cannot be read (File name too long)"]),
        (["report", "x" * 300], ["There is no folder xxx"]),
        (["compare", "x" * 300, "y"], ["There is no folder xxx"]),
        (["doctor", "x" * 300], ["There is no folder xxx"]),
        (["train", "ppo", "--env", "CartPole-v1", "--config", "a\0b"], ["--config needs a file"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.gravity", "fast"], ["gravity must be a number, got 'fast'"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.gravity", "nan"], ["gravity must be a number, got 'nan'"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.gravity", "True"], ["gravity must be a number, got True"]),
        (["train", "ppo", "--env", "CartPole-v1", "--env.max_steps_in_episode=0"], ["of at least 1, got 0"]),
        (
            ["train", "ppo", "--env", "CartPole-v1", "--sweep", "env.params.max_steps_in_episode=5,0"],
            ["env.params.max_steps_in_episode", "of at least 1, got 0"],
        ),
        (["train", "ppo", "--env", "CartPole-v1", "--total-steps"], ["total-steps"]),
        (["train", "ppo", "--env", "CartPole-v1", "--total-steps", "3"], ["total_steps=3"]),
        (["train", "ppo", "--env", "CartPole-v1", "--devices", "1000"], ["devices=1000"]),
        (["train", "c51", "--env", "Acrobot-v1"], ["value_low and value_high"]),
        (["train", "c51", "--env", "Acrobot-v1", "--value-low=-100", "--value-high=-100"], ["value_low must be below"]),
        (
            ["train", "ppo", "--env", "CartPole-v1", "--sweep", "normalize_advantages=True,maybe"],
            ["normalize_advantages", "got 'maybe'"],
        ),
        (["train", "nothere.py", "--env", "CartPole-v1"], ["nothere.py"]),
        (["train", "no.such.module", "--env", "CartPole-v1"], ["no.such.module"]),
        (["train", "ppo", "--env", "nothere.py:env"], ["nothere.py"]),
        (["train", "ppo", "--env", "own.py:"], ["Name the environment in own.py: --env own.py:name"]),
        (["train", "ppo", "--env", "own.py"], ["Name the environment in own.py: --env own.py:name"]),
        (["train", "--env", "CartPole-v1", "ppo"], ["Name the algorithm, before any option"]),
        (["resume", "--total-steps", "5", "runs/x"], ["Name the run's folder, before any option"]),
    ],
)
def test_mistakes_end_in_one_sentence(capsys, arguments, words):
    sentence = complaint(capsys, *arguments)
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("x = 1\ndef (", "invalid syntax (own.py, line 2)"),
        ("from rljax import nothing", "cannot import name 'nothing' from 'rljax'"),
        ("import nothere", "No module named 'nothere'"),
        ("import json\n\njson.loads('{')", "JSONDecodeError: Expecting property name"),
        ("import json\n\njson.loads('{')", "(own.py, line 3)"),
        ("import rljax\nrljax.make('CartPol-v1')", "did you mean CartPole-v1"),
    ],
)
def test_custom_files_that_fail_to_import_are_reported(capsys, tmp_path, code, words):
    (tmp_path / "own.py").write_text(code)
    assert words in complaint(capsys, "train", "own.py", "--env", "CartPole-v1")
    assert words in complaint(capsys, "train", "ppo", "--env", "own.py:env")


def test_all_mistakes_are_reported_at_once(capsys):
    arguments = ["--env", "CartPol-v1", "--lr", "fast", "--seeds", "0", "--gamma", "1.2", "--lerning-rate", "3"]
    assert cli.main(["train", "ppo", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 5
    for words in ("'fast'", "seeds must be at least 1", "at most 1, got 1.2", "--lerning-rate", "CartPole-v1"):
        assert sum(words in line for line in said) == 1, words


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["--env.gravty", "5", "--wrap", "timelimit=200", "--wrap", "resize=8", "--wrap", "time_limit"],
            ["gravity", "'timelimit'", "resize takes height, width", "time_limit takes max_steps"],
        ),
        (
            ["--keep", "besst", "--lr", "fast", "--sweep", "clip", "--wrap", "timelimit"],
            ["last, best, all", "'fast'", "--sweep needs", "'timelimit'"],
        ),
    ],
)
def test_mistakes_of_params_wrappers_and_sweeps_are_reported_together(capsys, arguments, words):
    assert cli.main(["train", "ppo", "--env", "CartPole-v1", *arguments]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(words)
    for some in words:
        assert sum(some in line for line in said) == 1, some


def test_runs_come_from_files_with_options_after_them(capsys, tmp_path):
    (tmp_path / "run.yaml").write_text(
        "algorithm: ppo\nenv: CartPole-v1\nenv.gravity: 5\nwrap: [time_limit=100, normalize_observations]\n"
        "seeds: 2\nlearning_rate: 1.0e-3\nhidden_sizes: [8]\nnormalize_advantages: false\ntarget_kl: null\n"
        "recurrent: none\n"
        "keep: [last, best]\n"
        "total_steps: 128\nnum_envs: 4\nnum_steps: 16\nevaluations: 1\neval_episodes: 2\nprogress: false\n"
    )
    assert cli.main(["train", "--config", "run.yaml", "--lr", "2e-3", "--out", "x"]) == 0
    about = json.loads((tmp_path / "x/config.json").read_text())
    assert (about["seeds"], about["keep"]) == (2, ["last", "best"])
    config = about["config"]
    assert (config["learning_rate"], config["hidden_sizes"], config["normalize_advantages"]) == (2e-3, [8], False)
    assert config["discount"] == 0.98  # the preset's
    assert (config["env"]["wrappers"], config["env"]["params"]["gravity"]) == (
        ["time_limit", "normalize_observations"],
        5,
    )
    assert cli.main(["train", "--config", "x/config.json", "--gamma", "0.9", "--seed", "1", "--out", "y"]) == 0
    again = json.loads((tmp_path / "y/config.json").read_text())
    assert (again["seeds"], again["seed"]) == (2, 1)
    assert again["config"] == {**config, "discount": 0.9}
    capsys.readouterr()
    said = complaint(capsys, "train", "dqn", "--config", "x/config.json", "--out", "z")
    assert "is of a run of ppo, whose config dqn cannot take" in said
    mistakes = {"[1]": "must map options", "a: [": "is not YAML", "sedes: 3": "--seeds", "seeds: 1e999": "--seeds"}
    invalid = ["seeds: " + "9" * 5000, "[" * 3000, "seeds: 2020-13-45"]
    for text, words in (mistakes | dict.fromkeys(invalid, "is not YAML")).items():
        (tmp_path / "run.yaml").write_text(text)
        said = complaint(capsys, "train", "ppo", "--env", "CartPole-v1", "--config", "run.yaml")
        assert words in said


def test_a_run_without_tuned_values_says_so(capsys, tmp_path):
    options = ["--evaluations", "0", "--eval-episodes", "1", "--total-steps", "200", "--out"]
    assert cli.main(["train", "q_learning", "--env", "CliffWalking-v1", *options, "x"]) == 0
    assert "no tuned values" not in capsys.readouterr().err
    assert cli.main(["train", "q_learning", "--env", "GridWorld-misc", *options, "y"]) == 0
    assert "q_learning has no tuned values for GridWorld-misc" in capsys.readouterr().err


def test_an_environment_is_described(capsys):
    assert cli.main(["envs", "CartPole-v1"]) == 0
    text = capsys.readouterr().out
    for words in ("Box[4] float32", "Discrete(2)", "time limit    500", "gravity=9.8", "--env.", "tuned         ppo, "):
        assert words in text
    (fitting,) = (line for line in text.splitlines() if "algorithms" in line)
    assert {"ppo", "rainbow"} <= set(fitting.replace(",", " ").split())
    assert not {"td3", "q_learning"} & set(fitting.replace(",", " ").split())
    assert "did you mean CartPole-v1" in complaint(capsys, "envs", "CartPol-v1")


def test_completion_knows_commands_options_and_environments(capsys, tmp_path):
    for shell in ("bash", "zsh"):
        assert cli.main(["completion", shell]) == 0
        script = capsys.readouterr().out
        for word in ("resume", "rainbow", "--learning-rate", "CartPole-v1", "stochastic", "expected_sarsa", "lstm"):
            assert word in script
        if shell == "zsh":
            # Sourced or evaluated, it registers itself; only a function that zsh loads by itself is called at once.
            assert "if [[ $zsh_eval_context[-1] != loadautofunc ]]; then" in script
        else:
            (tmp_path / "script").write_text(script)
    for line, words in {
        "rljax ": set(cli._COMMANDS),
        "rljax describe pp": {"ppo"},
        "rljax doctor --pl": {"--play"},
        "rljax train ppo --wrap time": {"time_limit"},
        "rljax train ppo --optimizer adamw": {"adamw"},
        "rljax train ppo --activation r": {"relu"},
    }.items():
        typed = line.split(" ")
        words_typed = " ".join(f"'{word}'" for word in typed)
        complete = f"source ./script; COMP_WORDS=({words_typed}); COMP_CWORD={len(typed) - 1}; _shtab_rljax"
        complete += "; echo ${COMPREPLY[@]}"
        done = subprocess.run(["bash", "-c", complete], cwd=tmp_path, capture_output=True, text=True, check=True)
        assert set(done.stdout.split()) == words, (line, done.stderr)


@pytest.mark.slow
def test_evaluations_elsewhere_come_from_the_line_or_a_file(tmp_path):
    """In fresh processes, which JAX must not have started in with fewer devices before they are set up."""
    (tmp_path / "mine.py").write_text("import rljax\nenv = rljax.envs.time_limit('FrozenLake-misc', 5)\n")

    def run(*arguments):
        command = [sys.executable, "-m", "rljax", *arguments, "--no-progress"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    small = ["--total-steps", "400", "--seeds", "2", "--evaluations", "1", "--eval-episodes", "3"]
    run("train", "q_learning", "--env", "FrozenLake-misc", *small, "--eval-env", "mine.py:env", "--out", "x")
    run("train", "--config", "x", "--eval-policy", "stochastic", "--out", "y")
    run("resume", "y")
    for name, policy in (("x", "greedy"), ("y", "stochastic")):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert (summary["eval_policy"], summary["eval_env"]) == (policy, "FrozenLake-misc+time_limit(5)")
        assert summary["final_measures"]["length"]["mean"] <= 5


def test_help_is_in_groups(capsys):
    assert cli.main(["train", "ppo", "--help"]) == 0
    text = capsys.readouterr().out
    places = [text.index(f"\n{title}:") for title in ("run", "environment", "algorithm", "network", "schedule")]
    assert places == sorted(places)
    assert places[3] < text.index("{tanh,relu,elu,gelu,silu}", places[3]) < places[4]


def test_a_run_that_is_refused_leaves_no_folder(capsys, tmp_path):
    complaint(capsys, "train", "ppo", "--env", "CartPole-v1", "--seeds", "0")
    complaint(capsys, "train", "ppo", "--env", "CartPole-v1", "--sweep", "clip")
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_ends_quietly():
    process = subprocess.Popen([sys.executable, "-m", "rljax", "envs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait() == 141


def test_a_pipe_closed_before_the_table_loses_no_result(tmp_path):
    out = tmp_path / "x"
    command = [sys.executable, "-m", "rljax", "train", "q_learning", "--env", "FrozenLake-misc"]
    command += ["--total-steps", "200", "--evaluations", "0", "--eval-episodes", "2", "--out", str(out)]
    with (tmp_path / "errors").open("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors)
        process.stdout.close()
        assert process.wait() == 141
        errors.seek(0)
        assert "Traceback" not in errors.read()
    assert (out / "summary.json").exists()


def test_an_invalid_output_folder_is_refused(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = ["train", "ppo", "--env", "CartPole-v1", *TINY, "--out"]
    assert "file is in the way" in complaint(capsys, *arguments, "file")
    assert "file" in complaint(capsys, *arguments, "file/below")


def test_an_error_reports_what_was_done_before_it(capsys, tmp_path):
    (tmp_path / "fussy.py").write_text(
        "import rljax, toys\n"
        "from toys import Config, act, init\n"
        "def update(key, state, config):\n"
        "    if config.width == 3:\n"
        "        raise rljax.UsageError('A width of 3 cannot be: take 2.')\n"
        "    return toys.update(key, state, config)\n"
    )
    arguments = ["train", "fussy.py", "--env", f"{ROOT}/tests/toys.py:walk", "--num-updates", "5", "--no-progress"]
    options = ["--sweep", "width=2,3", "--evaluations", "1", "--eval-episodes", "2", "--out", "x"]
    said = complaint(capsys, *arguments, *options)
    done = "The results so far, of 1 of 2 runs, are in x, and `rljax resume x` continues it."
    assert said == f"rljax: A width of 3 cannot be: take 2. {done}"
    assert len(json.loads((tmp_path / "x/summary.json").read_text())["configurations"]) == 1


def test_an_interrupt_writes_the_results_so_far_and_returns_130(tmp_path):
    command = [sys.executable, "-m", "rljax", "train", "ppo", "--env", "CartPole-v1", "--num-steps", "32"]
    command += ["--total-steps", "100000000", "--evaluations", "100000", "--eval-episodes", "2", "--out", "runs/x"]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XDG_CACHE_HOME": "cache"},
    )
    try:
        curves = tmp_path / "runs/x/curves.csv"
        deadline = time.monotonic() + 600
        while not curves.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "Stopped after" in err
    assert "IQM return" in out
    summary = json.loads((tmp_path / "runs/x/summary.json").read_text())
    assert summary["interrupted"] is True
    assert 0 <= summary["env_steps"] < 100_000_000


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_imports_ends_in_one_sentence(number):
    command = [sys.executable, "-X", "importtime", "-m", "rljax", "envs"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    imported = iter(process.stderr.readline, "")
    assert any("rljax.experiment.signals" in line for line in imported)
    process.send_signal(number)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 128 + number
    assert [line for line in err.splitlines() if not line.startswith("import time:")] == ["rljax: Interrupted."]
    assert out == ""


@pytest.mark.usefixtures("default_signals")
def test_a_signal_while_python_cleans_up_is_too_late():
    """The command is done; Python has no handlers any more."""
    program = (
        "import atexit, os, signal, sys; sys.argv[0] = 'rljax'; from rljax import cli\n"
        "class Late:\n"
        "    def __del__(self, kill=os.kill, pid=os.getpid(), numbers=(1, 2, 15)):\n"
        "        for number in numbers: kill(pid, number)\n"
        "sys.late = Late()\n"
        "sys.exit(cli.main(['algos']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("default_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_exit_code_names_the_signal(monkeypatch, tmp_path, number):
    add_chunk = history.Record.add_chunk

    def interrupt(self, *arguments):
        add_chunk(self, *arguments)
        signal.raise_signal(number)

    monkeypatch.setattr(history.Record, "add_chunk", interrupt)
    arguments = ["--env", "FrozenLake-misc", "--total-steps", "1000", "--evaluations", "2", "--eval-episodes", "2"]
    assert cli.main(["train", "q_learning", *arguments, "--out", "x", "--no-progress"]) == 128 + number
    assert json.loads((tmp_path / "x/summary.json").read_text())["interrupted"] is True


def test_importing_rljax_changes_no_signal():
    program = (
        "import signal; s = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]; f = lambda: [*map(signal.getsignal, s)]"
    )
    program += "; before = f(); import rljax; assert f() == before"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_full_output_is_one_sentence():
    command = [sys.executable, "-m", "rljax", "algos"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "rljax: Standard output cannot be written (No space left on device).\n"


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_are_no_mistake(closed):
    subprocess.run(["bash", "-c", f"{sys.executable} -m rljax algos {closed}"], capture_output=True, check=True)


def test_names_are_printed_and_written_in_any_encoding(tmp_path):
    name = "gr\u00f6\u00dfe" + os.fsdecode(b"\xff")
    command = [sys.executable, "-m", "rljax", "train", "q_learning", "--env", "FrozenLake-misc", "--name", name]
    command += ["--total-steps", "200", "--evaluations", "1", "--eval-episodes", "2", "--out", name]
    env = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii:strict", "XDG_CACHE_HOME": "cache"}
    done = subprocess.run(command, env=env, capture_output=True, check=False)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    files = {*("checkpoints", "config.json", "curves.csv", "learning_curve.png", "metrics.csv", "summary.json")}
    assert {path.name for path in (tmp_path / name).iterdir()} == files


@pytest.mark.parametrize(("limit", "size"), [("RLIMIT_NOFILE", 12), ("RLIMIT_AS", 1_500_000_000)])
def test_limits_under_which_jax_hangs_or_aborts_are_refused(limit, size):
    program = f"""
import resource, sys
from rljax import cli
resource.setrlimit(resource.{limit}, ({size}, {size}))
sys.exit(cli.main(["train", "q_learning", "--env", "FrozenLake-misc", "--out", "x"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "raise `ulimit" in done.stderr


def test_a_mistake_in_a_custom_algorithm_shows_its_line(capsys, tmp_path):
    (tmp_path / "broken.py").write_text(
        "from toys import Config, act, init\n\n\ndef update(key, state, config):\n    return state.nothing\n"
    )
    arguments = ["train", "broken.py", "--env", f"{ROOT}/tests/toys.py:walk", "--no-progress", "--out", "x"]
    assert cli.main(arguments) == 1
    sentence = capsys.readouterr().err
    assert sentence == "rljax: AttributeError: 'State' object has no attribute 'nothing' (broken.py, line 5).\n"


def test_a_run_with_custom_code_is_resumed_from_any_folder(capsys, tmp_path, monkeypatch):
    """Its folder records the files; params of the environment are recorded too, and 1e1 is an integer."""
    (tmp_path / "mine.py").write_text("from toys import Config, act, init, update, walk\nother = walk.replace()\n")
    arguments = ["train", "mine.py", "--env", "mine.py:walk", "--env.height", "2.5", "--num-updates", "1e1"]
    options = ["--evaluations", "0", "--eval-episodes", "2", "--checkpoint-every", "100", "--no-progress"]
    options += ["--eval-env", "mine.py:other"]
    assert cli.main([*arguments, *options, "--out", str(tmp_path / "x")]) == 0
    about = json.loads((tmp_path / "x/config.json").read_text())
    assert about["config"]["env"]["params"][0] == 2.5
    assert about["config"]["num_updates"] == 10
    assert about["eval_env"]["reference"] == [f"{tmp_path}/mine.py:other"]
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)
    assert cli.main(["resume", str(tmp_path / "x"), "--no-progress"]) == 0
    with pytest.raises(rljax.UsageError, match="pass it as algorithm="):
        rljax.best(tmp_path / "x")
    (tmp_path / "mine.py").unlink()
    assert "There is no file" in complaint(capsys, "resume", str(tmp_path / "x"))
