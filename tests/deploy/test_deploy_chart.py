"""The Helm chart: what it makes, what it refuses, and that clusters take it."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from deploy.charts import CHART, Json, helm, names_of_versions, one, render, with_values
from windfall import __version__
from windfall.fleet.drivers.kubernetes_manifest import driver_rules

CONFIG = with_values()["config"]
EVERYTHING: Json = {
    "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["registry"]},
    "service": {"annotations": {"a": "b"}, "loadBalancerClass": "example.org/lb", "loadBalancerSourceRanges": ["10.0.0.0/8"]},
    "storage": {"className": "fast"},
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
    "envFromSecrets": ["signals"],
    "extraVolumes": [{"name": "traces", "configMap": {"name": "traces"}}],
    "extraVolumeMounts": [{"name": "traces", "mountPath": "/data/traces"}],
    "rbac": {"siteNamespaces": ["sites-a", "sites-b"]},
    "serviceAccount": {"annotations": {"a": "b"}},
    "networkPolicy": {"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "egressPorts": [443, 3128]},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "system", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [{"key": "disk", "operator": "Exists"}]}]}}},
    "priorityClassName": "system",
    "podLabels": {"team": "a"},
    "podAnnotations": {"note": "b"},
}  # fmt: skip
VARIANTS: dict[str, list[Json]] = {
    "guide": [],
    "everything": [EVERYTHING],
    "ingress": [{
        "service": {"type": "ClusterIP"}, "endpoint": {"port": 443}, "config": CONFIG.replace("9443", "443"),
        "ingress": {"enabled": True, "host": "coordinator.example.org"},
    }],
    "node_port": [{"service": {"type": "NodePort"}, "endpoint": {"port": 30943}, "config": CONFIG.replace("9443", "30943")}],
    "existing": [{
        "config": "", "existingConfigMap": "run", "storage": {"existingClaim": "disk"}, "serviceAccount": {"existing": "acting"},
        "podDisruptionBudget": {"enabled": False}, "networkPolicy": {"enabled": False},
    }],
    "insecure": [{"certificates": {"existingSecret": ""},
                  "config": '[network]\naddress = "10.0.0.9"\nport = 9443\ninsecure = "I know"\n'}],
}  # fmt: skip


def rendered(variant: str) -> list[Json]:
    return render(with_values(*VARIANTS[variant]))


def pod(objects: list[Json]) -> Json:
    found: Json = one(objects, "StatefulSet")["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize("values", [None, *[with_values(*v) for v in VARIANTS.values()]], ids=["default", *VARIANTS])
def test_helm_finds_nothing_to_say_of_it(values: Json | None) -> None:
    found = helm().lint(str(CHART), values, strict=True, kube_version="v1.30.0")
    assert (found["errors"], [m["error"] for m in found["messages"] if m["severity"] != 1]) == ([], [])


@pytest.mark.slow
def test_every_version_of_kubernetes_takes_what_it_makes() -> None:
    objects = [*rendered("everything"), one(rendered("ingress"), "Ingress"), one(rendered("insecure"), "StatefulSet")]
    for version in names_of_versions():
        for obj in objects:
            kubernetes_validate.validate(obj, version, strict=True)
    wrong = one(objects[:-1], "StatefulSet")
    wrong["spec"]["replicsa"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="replicsa"):
        kubernetes_validate.validate(wrong, "1.30", strict=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": ""}, "config: a run needs a configuration: --set-file config=run.toml, or existingConfigMap"),
        ({"existingConfigMap": "run"}, "config and existingConfigMap: one of them, not both"),
        ({"certificates": {"existingSecret": ""}}, "certificates.existingSecret: sites elsewhere need TLS"),
        ({"endpoint": {"port": 9444}}, "config: [network] has to say port = 9444, which is endpoint.port"),
        ({"config": CONFIG.replace('"certs"', '"other"')}, '[network] has to say certificates = "certs"'),
        ({"service": {"type": "NodePort"}}, "endpoint.port: with NodePort sites reach nodes at that port"),
        ({"ingress": {"enabled": True, "host": "a.example.org"}}, "endpoint.port: an ingress listens on 443"),
        (
            {"ingress": {"enabled": True}, "endpoint": {"port": 443}, "config": CONFIG.replace("9443", "443")},
            "ingress.host: an ingress that passes TLS through needs the name that sites use",
        ),
    ],
)
def test_values_that_would_make_no_run_are_refused_in_a_sentence(values: Json, said: str) -> None:
    with pytest.raises(helm().errors.HelmRenderError, match=re.escape(said)):
        render(with_values(values))


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"endpoint": {"port": "9443"}}, "/endpoint/port"),
        ({"image": {"tag": "latest"}}, "/image/tag"),
        ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ({"imagee": {"tag": "1"}}, "imagee"),
        ({"storage": {"size": "much"}}, "/storage/size"),
        ({"service": {"type": "Headless"}}, "/service/type"),
        ({"rbac": {"siteNamespaces": "sites"}}, "/rbac/siteNamespaces"),
        ({"terminationGracePeriodSeconds": 1}, "/terminationGracePeriodSeconds"),
    ],
)
def test_values_of_a_wrong_kind_are_refused_by_the_schema(values: Json, where: str) -> None:
    with pytest.raises(helm().errors.HelmError, match=where):
        render(with_values(values))


def test_it_is_of_this_version() -> None:
    with helm().Chart.load(CHART) as chart:
        assert (chart.metadata["version"], chart.metadata["appVersion"]) == (__version__, __version__)
    assert pod(rendered("guide"))["containers"][0]["image"] == f"windfall:{__version__}"
    assert pod(rendered("everything"))["containers"][0]["image"] == f"windfall@sha256:{'0' * 64}"


def test_every_value_is_explained_and_used() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    templates = "".join(p.read_text(encoding="utf-8") for p in (CHART / "templates").iterdir())

    def leaves(values: Json, *above: str) -> list[str]:
        nested = [leaves(v, *above, k) if isinstance(v, dict) and v else [".".join((*above, k))] for k, v in values.items()]
        return [name for names in nested for name in names]

    names = leaves(yaml.safe_load(text))
    assert len(names) > 30
    whole = {"resources.requests.cpu", "resources.requests.memory", "resources.limits.memory"}
    whole |= {n for n in names if n.startswith("ingress.annotations.")}
    assert [n for n in names if n not in whole and f".Values.{n}" not in templates] == []


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_of_it_is_a_secret_and_nothing_is_open_but_the_endpoint(variant: str) -> None:
    objects = rendered(variant)
    assert "Secret" not in {o["kind"] for o in objects}
    (port,) = pod(objects)["containers"][0]["ports"]
    service = one(objects, "Service")["spec"]["ports"]
    assert [(p["port"], p["targetPort"]) for p in service] == [(port["containerPort"], port["name"])]
    for policy in [o for o in objects if o["kind"] == "NetworkPolicy"]:
        assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
        assert [p for rule in policy["spec"]["ingress"] for p in rule["ports"]] == [
            {"port": port["containerPort"], "protocol": "TCP"}
        ]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_pod_passes_the_restricted_pod_security_standard(variant: str) -> None:
    spec = pod(rendered(variant))
    own, (container,) = spec["securityContext"], spec["containers"]
    assert (own["runAsNonRoot"], own["runAsUser"] > 0, own["seccompProfile"]) == (True, True, {"type": "RuntimeDefault"})
    assert {s["name"] for s in own.get("sysctls", [])} <= {"net.ipv4.ip_unprivileged_port_start"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    kinds = {next(k for k in v if k != "name") for v in spec["volumes"]}
    assert kinds <= {"projected", "emptyDir", "persistentVolumeClaim", "configMap", "secret"}
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert {"/tmp", "/var/lib/windfall", "/home/windfall", "/dev/shm"} <= writable


def test_it_is_ready_when_its_endpoint_answers_as_it_is_served() -> None:
    for variant, scheme in (("guide", "HTTPS"), ("insecure", "HTTP")):
        probe = pod(rendered(variant))["containers"][0]["readinessProbe"]["httpGet"]
        assert probe == {"path": "/", "port": "endpoint", "scheme": scheme}


def test_selectors_find_the_pod_and_never_a_site() -> None:
    objects = rendered("everything")
    labels = one(objects, "StatefulSet")["spec"]["template"]["metadata"]["labels"]
    selectors: list[Any] = [
        one(objects, "StatefulSet")["spec"]["selector"]["matchLabels"], one(objects, "Service")["spec"]["selector"],
        one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        one(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]  # fmt: skip
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/name"] != "windfall"  # which is what sites' pods are called


def test_the_account_may_what_the_driver_does_where_sites_are_and_has_no_token_elsewhere() -> None:
    objects = rendered("everything")
    roles = [o for o in objects if o["kind"] == "Role"]
    assert [r["metadata"]["namespace"] for r in roles] == ["sites-a", "sites-b"]
    assert all(r["rules"] == driver_rules() for r in roles)
    assert {s["namespace"] for o in objects if o["kind"] == "RoleBinding" for s in o["subjects"]} == {"windfall"}
    assert pod(objects)["automountServiceAccountToken"] is True
    assert pod(rendered("guide"))["automountServiceAccountToken"] is False


def test_another_configuration_makes_another_pod_and_another_chart_alone_does_not() -> None:
    def template(*values: Json) -> Json:
        found: Json = one(render(with_values(*values)), "StatefulSet")["spec"]["template"]
        return found

    assert template() == template()
    assert template() != template({"config": CONFIG + "\n# more\n"})
    assert "helm.sh/chart" not in template()["metadata"]["labels"]


def test_a_run_outlives_its_release() -> None:
    claim = one(rendered("guide"), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert [o["kind"] for o in rendered("existing")].count("PersistentVolumeClaim") == 0
    assert {"name": "run", "persistentVolumeClaim": {"claimName": "disk"}} in pod(rendered("existing"))["volumes"]
