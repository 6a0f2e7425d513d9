"""Tables of drivers: what each needs, and what does not go together."""

from __future__ import annotations

from pathlib import Path

import pytest

from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.config.problems import ConfigProblems
from windfall.config.schema import Config

DEMO = bundled("demo.toml")
EXALSIUS = '[site.exalsius]\ncluster = "lab"\nnodes = ["a"]\n'
POD = '[site.exalsius.kubernetes]\nimage = "w:1"\n'


def config(driver: str, table: str) -> Config:
    text = DEMO.replace("threads = 2", f'driver = "{driver}"\nthreads = 2', 1).replace(
        "[site.signal]", f"{table}\n[site.signal]", 1
    )
    return loads(text, "demo.toml", Path("."))


def test_a_site_has_the_table_of_its_own_driver() -> None:
    assert config("slurm", '[site.slurm]\nfolder = "/scratch"\ntime_limit_min = 60\n').site[0].slurm is not None
    words = '[site.command]\nup = ["u"]\ndown = ["d"]\nobserve = ["o"]\n'
    table = config("exalsius", EXALSIUS + POD + 'kubeconfig = "k"\n').site[0].exalsius
    assert table is not None
    assert table.kubernetes.kubeconfig == str(Path("k").absolute()), "from the configuration's own folder"
    assert config("command", words).site[0].command is not None


@pytest.mark.parametrize(
    ("driver", "table", "told"),
    [
        ("slurm", "", r'driver = "slurm" needs a table \[site\.slurm\]'),
        ("command", "", r'driver = "command" needs a table \[site\.command\]'),
        ("local", '[site.slurm]\nfolder = "/scratch"\n', 'it has a table slurm, and driver = "local"'),
        ("slurm", '[site.slurm]\nfolder = "scratch"\n', "folder = scratch has to be a whole path"),
        ("slurm", '[site.slurm]\nfolder = "/s"\ngpus = 2\ngres = "gpu:2"\n', "gpus and gres both ask for GPUs"),
        ("slurm", '[site.slurm]\nfolder = "/s"\ntime_limit_min = 5\n', "term_before_s = 300 is as long as the whole job"),
        ("slurm", '[site.slurm]\nfolder = "/s"\nextra = ["--job-name=x"]\n', "extra has --job-name, which the driver sets itself"),
        ("slurm", '[site.slurm]\nfolder = "/s"\nextra = ["-Jx"]\n', "extra has -J, which the driver sets itself"),
        ("slurm", '[site.slurm]\nfolder = "/s"\nextra = ["-C", "a100"]\n', "extra has 'a100', which is no option"),
        ("slurm", '[site.slurm]\nfolder = "/s"\nmemory = "64 GB"\n', "memory"),
        ("slurm", '[site.slurm]\nfolder = "/s"\npartion = "gpu"\n', "did you mean `partition`"),
        ("exalsius", "", r'driver = "exalsius" needs a table \[site\.exalsius\]'),
        ("exalsius", EXALSIUS + 'host = "http://far.lan/v1"\n' + POD, "would send the token in the clear; begin it with https"),
        ("exalsius", EXALSIUS + 'host = "far.lan"\n' + POD, "far.lan is no address"),
        ("exalsius", EXALSIUS + 'token_from = "s3cret"\n' + POD, "token_from"),
        ("exalsius", EXALSIUS + 'renew_command = ["r"]\n' + POD, "renew_command cannot change this process's environment"),
        ("exalsius", EXALSIUS.replace('"a"', '"a", "a"') + POD, "it has 'a' twice, or empty"),
        ("exalsius", EXALSIUS + POD + 'queue = "q"\n', "kubernetes.queue is for clusters that are shared"),
        ("exalsius", EXALSIUS, "kubernetes"),
        ("command", '[site.command]\nup = []\ndown = ["d"]\nobserve = ["o"]\n', "up"),
        ("command", '[site.command]\nup = "u"\ndown = ["d"]\nobserve = ["o"]\n', "which is no list"),
    ],
)
def test_what_a_drivers_table_has_wrong_is_told(driver: str, table: str, told: str) -> None:
    with pytest.raises(ConfigProblems, match=told):
        config(driver, table)


def test_a_node_of_two_sites_is_told() -> None:
    text = DEMO.replace("threads = 2", 'driver = "exalsius"\nthreads = 2', 2).replace(
        "[site.signal]", f"{EXALSIUS}{POD}[site.signal]", 2
    )
    with pytest.raises(ConfigProblems, match=r"node a is site .*'s, too"):
        loads(text, "demo.toml", Path("."))
