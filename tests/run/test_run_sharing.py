"""What `windfall check` says of sites that train together, and of their links."""

from __future__ import annotations

from pathlib import Path

from windfall.cli.demo import bundled
from windfall.config.load import loads
from windfall.config.schema import Config
from windfall.run.sharing import averaged_states, shared_steps, short_notices, slow_leaves
from windfall.train.shape import GPTConfig

DEMO = bundled("demo.toml")
LARGE = GPTConfig(depth=12, width=768, head_dim=128, sequence_length=256, vocab_size=256)


def test_more_sites_than_blocks_in_a_step_is_told_and_as_many_is_not() -> None:
    assert not list(shared_steps(loads(DEMO, "demo.toml", Path("."))))
    (told,) = shared_steps(loads(DEMO.replace("block_sequences = 1", "block_sequences = 4"), "demo.toml", Path(".")))
    assert "3 sites share optimizer steps of 2 blocks" in told
    alone = DEMO.replace("block_sequences = 1", 'block_sequences = 4\nbatch = "site"')
    assert not list(shared_steps(loads(alone, "demo.toml", Path("."))))


def test_a_link_through_which_a_site_cannot_leave_in_time_is_told_with_what_it_takes() -> None:
    assert not list(slow_leaves(loads(DEMO, "demo.toml", Path(".")), LARGE))
    slow = DEMO.replace("threads = 2", "threads = 2\nbandwidth_mbit_s = 20.0", 1)
    (told,) = slow_leaves(loads(slow, "demo.toml", Path(".")), LARGE)
    # 85M parameters and more in float32 at 2.5 MB/s.
    assert told.startswith("site california: at 20 Mbit/s its last work takes 13")
    assert "fleet.drain_timeout_s is 60" in told
    fast = slow.replace("bandwidth_mbit_s = 20.0", "bandwidth_mbit_s = 2000.0")
    assert not list(slow_leaves(loads(fast, "demo.toml", Path(".")), LARGE))


def test_a_job_that_is_told_of_its_end_too_late_to_hand_in_is_told_of() -> None:
    def told(term_before_s: int, more: str = "") -> list[str]:
        table = f'[site.slurm]\nfolder = "/scratch"\nterm_before_s = {term_before_s}\n\n[site.signal]'
        text = DEMO.replace("threads = 2", f'driver = "slurm"\nthreads = 2{more}', 1).replace("[site.signal]", table, 1)
        return list(short_notices(loads(text, "demo.toml", Path(".")), LARGE))

    assert told(300) == []
    (few,) = told(30)
    assert few.startswith(
        "site california: slurm.term_before_s = 30 is the time that a job has to hand in what it has before its limit"
    )
    assert "fleet.drain_timeout_s gives it 60 s" in few
    (slow,) = told(150, "\nbandwidth_mbit_s = 20.0")
    assert "that takes 20" in slow
    assert told(150, "\nbandwidth_mbit_s = 2000.0") == []


def test_a_pod_that_the_cluster_ends_too_fast_to_hand_in_is_told_of() -> None:
    def told(grace_s: int) -> list[str]:
        table = f'[site.kubernetes]\nimage = "windfall:1"\ngrace_s = {grace_s}\n\n[site.signal]'
        text = DEMO.replace("threads = 2", 'driver = "kubernetes"\nthreads = 2', 1).replace("[site.signal]", table, 1)
        return list(short_notices(loads(text, "demo.toml", Path(".")), LARGE))

    assert told(120) == []
    (few,) = told(30)
    assert few == (
        "site california: kubernetes.grace_s = 30 is the time that a pod has to hand in what it has where the cluster ends it, and "
        "fleet.drain_timeout_s gives it 60 s, beside the 10 s of its end: what has not left stays in its outbox, and comes with "
        "its next pod; raise it"
    )


def test_a_pods_grace_is_by_default_what_the_run_gives_a_site_to_hand_in_and_end() -> None:
    def config(table: str, more: str = "") -> Config:
        text = DEMO.replace("threads = 2", f"threads = 2{more}", 1).replace("[site.signal]", f"{table}\n\n[site.signal]", 1)
        return loads(text, "demo.toml", Path("."))

    own = config('[site.kubernetes]\nimage = "windfall:1"', '\ndriver = "kubernetes"')
    site = own.settled(own.site[0])
    assert site.kubernetes is not None
    assert (site.kubernetes.grace_s, own.notice_s(site), own.notice_s(own.site[1])) == (70, 70.0, 0.0)
    assert list(short_notices(own, LARGE)) == []
    pool = '[site.exalsius]\ncluster = "lab"\nnodes = ["n"]\n\n[site.exalsius.kubernetes]\nimage = "windfall:1"'
    on_nodes = config(pool, '\ndriver = "exalsius"\nbandwidth_mbit_s = 20.0')
    (told,) = short_notices(on_nodes, LARGE)
    assert told.startswith("site california: exalsius.kubernetes.grace_s = 70 is the time that a pod has")


def test_what_averaging_inner_states_adds_to_a_round_is_told_in_bytes() -> None:
    assert not list(averaged_states(loads(DEMO, "demo.toml", Path(".")), LARGE))
    text = DEMO.replace("[federation]", "[federation]\naverage_inner_every = 4")
    (told,) = averaged_states(loads(text, "demo.toml", Path(".")), LARGE)
    # 85M numbers of momentum and few of tables at two bytes; the weights at 0.26 x 4 bytes.
    assert "for one version in 4 of joint rounds each site hands in 172 MB more and is sent as much, 1.9 times what int8" in told
    assert told.endswith("no gain was measured at rounds of two steps")
