"""Estimate one policy's click rate from another one's log: 10,000 impressions each of the Open Bandit Dataset.

The logs come from the wheel of obp 0.4.1 (CC BY 4.0), which pip downloads; obp itself is not imported.
    python examples/off_policy.py [FOLDER]
"""

import pathlib
import subprocess
import sys
import tempfile
import zipfile

from rljax.bandits import mean_rewards, off_policy_estimate, read_open_bandit, uniform_policy


def fetch(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The logs of Bernoulli Thompson sampling and of the uniform policy, for all items."""
    wheel = folder / "obp-0.4.1-py3-none-any.whl"
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "obp==0.4.1", "--no-deps", "--quiet", "-d", str(folder)]
        subprocess.run(command, check=True)
    with zipfile.ZipFile(wheel) as archive:
        members = {name: f"obp/dataset/obd/{name}/all/all.csv" for name in ("bts", "random")}
        return {name: pathlib.Path(archive.extract(member, folder)) for name, member in members.items()}


def main() -> None:
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    logs = {name: read_open_bandit(path) for name, path in fetch(folder).items()}
    thompson, random = logs["bts"], logs["random"]
    print(f"click rates in their own logs: Thompson {thompson.reward.mean():.4%}, uniform {random.reward.mean():.4%}")
    print("the uniform policy's click rate, estimated from Thompson's log:")
    found = off_policy_estimate(thompson, uniform_policy(thompson), mean_rewards(thompson))
    for name, (value, low, high) in found.items():
        covers = "covers" if low <= random.reward.mean() <= high else "does not cover"
        print(f"  {name:14} {value:.4%} ({low:.4%} to {high:.4%}) {covers} its own")


if __name__ == "__main__":
    main()
