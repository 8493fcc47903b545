"""The manifests for Kubernetes: what is shipped is without fault, and each of many broken copies is caught."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from aikcache.flask import Aikcache
from ops.check import custom
from ops.check.bundle import Resource
from ops.check.manifests import OVERLAYS, build, schemas
from ops.check.podspec import quantity
from ops.check.semantics import check
from ops.check.tools import OPS, Missing, tool

Resources = list[Resource]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Resources]:
    """Every overlay, built once."""
    try:
        tool("kubectl")
    except Missing as error:
        if os.environ.get("AIKCACHE_REQUIRE_SERVERS") == "1":
            raise
        pytest.skip(str(error))
    return {name: build(OPS / "k8s" / "overlays" / name) for name in OVERLAYS}


def get(resources: Resources, kind: str, name: str) -> Resource:
    """By kind and the beginning of its name: a ConfigMap's ends in a digest."""
    return next(one for one in resources if one["kind"] == kind and one["metadata"]["name"].startswith(name))


def spec(resources: Resources, kind: str, name: str) -> Any:
    return get(resources, kind, name)["spec"]


def pod(resources: Resources, name: str = "redis") -> Any:
    return spec(resources, "StatefulSet", name)["template"]["spec"]


def container(resources: Resources, name: str = "redis") -> Any:
    pods = pod(resources)
    return next(one for one in [*pods["containers"], *pods["initContainers"]] if one["name"] == name)


def volume(resources: Resources, name: str) -> Any:
    return next(one for one in pod(resources)["volumes"] if one["name"] == name)


def policy(resources: Resources, name: str) -> Any:
    return next(o for o in resources if o["kind"] == "NetworkPolicy" and o["metadata"]["name"] == name)["spec"]


def without(resources: Resources, kind: str, name: str) -> None:
    resources.remove(get(resources, kind, name))


def endpoint(resources: Resources) -> Any:
    return spec(resources, "ServiceMonitor", "aikcache")["endpoints"][0]


def budget(resources: Resources) -> Any:
    return spec(resources, "PodDisruptionBudget", "redis")


Change = Callable[[Resources], object]
BROKEN: dict[str, tuple[Change, str]] = {
    "a Service for nobody": (
        lambda r: spec(r, "Service", "redis")["selector"].update({"app.kubernetes.io/component": "reddis"}),
        "selects no pods",
    ),
    "a targetPort by a wrong name": (
        lambda r: spec(r, "Service", "redis")["ports"][0].update(targetPort="server"), "leads to port server",
    ),
    "a targetPort by a wrong number": (
        lambda r: spec(r, "Service", "redis")["ports"][0].update(targetPort=6380), "leads to port 6380",
    ),
    "a port with a long name": (
        lambda r: spec(r, "Service", "redis")["ports"][0].update(name="redis-server-port"), "longer than 15",
    ),
    "no such headless Service": (
        lambda r: spec(r, "StatefulSet", "redis").update(serviceName="redis-nodes"), "no headless Service redis-nodes",
    ),
    "a Service with an address": (lambda r: spec(r, "Service", "redis").pop("clusterIP"), "no headless Service"),
    "names only of who is ready": (
        lambda r: spec(r, "Service", "redis").update(publishNotReadyAddresses=False), "no names before it is ready",
    ),
    "pods one by one": (
        lambda r: spec(r, "StatefulSet", "redis").update(podManagementPolicy="OrderedReady"), "one by one",
    ),
    "a selector of other pods": (
        lambda r: spec(r, "StatefulSet", "redis")["selector"]["matchLabels"].update(tier="x"), "does not select",
    ),
    "no ServiceAccount": (lambda r: without(r, "ServiceAccount", "redis"), "no ServiceAccount redis"),
    "a token in every pod": (lambda r: pod(r).pop("automountServiceAccountToken"), "a token of the API"),
    "no ConfigMap": (lambda r: without(r, "ConfigMap", "redis-scripts"), "no ConfigMap redis-scripts"),
    "no such Secret": (
        lambda r: volume(r, "passwords")["secret"].update(secretName="redis-pasword"), "no Secret redis-pasword",
    ),
    "no such password": (
        lambda r: container(r, "exporter")["env"][2]["valueFrom"]["secretKeyRef"].update(key="exporter"),
        "no Secret redis-passwords with exporter",
    ),
    "a Secret for everybody": (lambda r: volume(r, "passwords")["secret"].update(defaultMode=292), "everybody may"),
    "a Secret in the repository": (
        lambda r: r.append({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "redis-passwords"}}),
        "should be nothing shipped",
    ),
    "a password in the open": (
        lambda r: container(r)["env"].append({"name": "REDIS_PASSWORD", "value": "tea"}), "a secret in the open",
    ),
    "a mount of no volume": (lambda r: pod(r)["volumes"].remove(volume(r, "tmp")), "there is no volume tmp"),
    "a volume for nobody": (
        lambda r: pod(r)["volumes"].append({"name": "spare", "emptyDir": {}}), "nobody mounts the volume spare",
    ),
    "two mounts at one place": (
        lambda r: container(r)["volumeMounts"][4].update(mountPath="/data"), "mounted at one place",
    ),
    "no such script": (
        lambda r: container(r)["readinessProbe"]["exec"].update(command=["/scripts/ready.sh"]), "no script",
    ),
    "a script that nobody may run": (
        lambda r: volume(r, "scripts")["configMap"].pop("defaultMode"), "nobody may run /scripts/",
    ),
    "a variable before its time": (
        lambda r: container(r)["env"].insert(0, container(r)["env"].pop(2)), "SELF uses POD, which is not set before",
    ),
    "a variable twice": (
        lambda r: container(r)["env"].append({"name": "DATA", "value": "/x"}), "DATA is set twice",
    ),
    "no memory limit": (lambda r: container(r)["resources"]["limits"].pop("memory"), "no limit of memory"),
    "a quantity that is none": (
        lambda r: container(r)["resources"]["limits"].update(memory="4GB"), "one that is no quantity",
    ),
    "more asked than allowed": (
        lambda r: container(r)["resources"]["requests"].update(memory="5Gi"), "more memory than its limit",
    ),
    "a probe of one second": (lambda r: container(r)["livenessProbe"].pop("timeoutSeconds"), "has one second"),
    "no readiness": (lambda r: container(r).pop("readinessProbe"), "has no readinessProbe"),
    "a liveness that asks about others": (
        lambda r: container(r)["livenessProbe"]["exec"].update(command=["/scripts/ready-redis.sh"]), "at once",
    ),
    "a probe of another port": (
        lambda r: container(r, "exporter")["livenessProbe"]["httpGet"].update(port="http"), "a port that it",
    ),
    "a container that starts bare": (
        lambda r: container(r).update(command=["valkey-server", "/data/redis.conf"]), "without asking who",
    ),
    "another profile at a restart": (
        lambda r: container(r, "init")["env"].append({"name": "PROFILE", "value": "durable"}), "another env than init",
    ),
    "a preStop cut short": (lambda r: pod(r).update(terminationGracePeriodSeconds=30), "before its preStop script"),
    "a removed version": (
        lambda r: get(r, "PodDisruptionBudget", "redis").update(apiVersion="policy/v1beta1"), "should be policy/v1",
    ),
    "a budget for nobody": (lambda r: budget(r)["selector"]["matchLabels"].update(a="b"), "matches no pods"),
    "a budget with both": (lambda r: budget(r).update(maxUnavailable=1), "and not both"),
    "a budget that lets nothing go": (lambda r: budget(r).update(minAvailable=3), "lets no node be drained"),
    "no budget": (lambda r: without(r, "PodDisruptionBudget", "redis"), "has no PodDisruptionBudget"),
    "no DNS": (lambda r: policy(r, "aikcache").pop("egress"), "may not resolve names"),
    "not closed": (
        lambda r: [p["spec"].update(policyTypes=["Ingress"]) for p in r if p["kind"] == "NetworkPolicy"],
        "not closed to the network",
    ),
    "open to everybody": (lambda r: policy(r, "aikcache-clients")["ingress"][0].pop("from"), "open to everybody"),
    "a policy for nobody": (
        lambda r: policy(r, "aikcache-clients")["podSelector"]["matchLabels"].update(a="b"), "is for no pods",
    ),
    "metrics that nobody reaches": (
        lambda r: r.remove(next(o for o in r if o["metadata"]["name"] == "aikcache-metrics")), "on its port 9121",
    ),
    "a monitor of a port's number": (lambda r: endpoint(r).update(port="9121"), "which no Service calls so"),
    "a monitor's unknown field": (lambda r: endpoint(r).update(intervals="30s"), "unknown field intervals"),
    "a monitor of nothing": (
        lambda r: spec(r, "ServiceMonitor", "aikcache")["selector"]["matchLabels"].update(a="b"), "selects no Services",
    ),
    "a slow monitor": (lambda r: endpoint(r).update(interval="60s"), "the rules count on 30s"),
    "other rules": (
        lambda r: spec(r, "PrometheusRule", "aikcache")["groups"][0]["rules"][3].update(expr="redis_up == 0"),
        "other rules than those",
    ),
    "as root": (lambda r: pod(r)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "any system call": (lambda r: pod(r)["securityContext"].pop("seccompProfile"), "any system call"),
    "gaining privileges": (lambda r: container(r)["securityContext"].pop("allowPrivilegeEscalation"), "gain"),
    "a writable root": (lambda r: container(r)["securityContext"].pop("readOnlyRootFilesystem"), "write to its root"),
    "capabilities": (lambda r: container(r)["securityContext"].pop("capabilities"), "keeps capabilities"),
    "any image": (lambda r: container(r).update(image="docker.io/valkey/valkey"), "is not pinned"),
    "away from others": (
        lambda r: pod(r)["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"].update(a="b"),
        "other pods than its own",
    ),
    "an unknown word": (
        lambda r: pod(r)["topologySpreadConstraints"][0].update(whenUnsatisfiable="Schedule"), "cannot be Schedule",
    ),
    "no init container": (lambda r: pod(r).pop("initContainers"), "no init container asks who is the primary"),
    "an init container of another kind": (
        lambda r: container(r, "init").update(command=["/scripts/init-sentinel.sh"]), "run /scripts/init-redis.sh",
    ),
    "no preStop": (lambda r: container(r).pop("lifecycle"), "hands over to nobody"),
    "a preStop that hands nothing over": (
        lambda r: container(r)["lifecycle"]["preStop"].update(exec={"command": ["/scripts/live.sh", "monitor"]}),
        "hands over to nobody",
    ),
    "no startup probe": (lambda r: container(r).pop("startupProbe"), "while it loads its data"),
    "a startup probe of half a minute": (
        lambda r: container(r)["startupProbe"].update(failureThreshold=6), "while it loads its data",
    ),
    "a readiness that asks nobody": (
        lambda r: container(r)["readinessProbe"]["exec"].update(command=["/scripts/live.sh", "monitor"]),
        "readinessProbe does not run /scripts/ready-redis.sh",
    ),
    "a liveness of one's own": (
        lambda r: container(r)["livenessProbe"].update(exec={"command": ["redis-cli", "ping"]}),
        "livenessProbe does not run /scripts/live.sh",
    ),
    "all in one zone": (lambda r: pod(r).pop("topologySpreadConstraints"), "one zone may get all"),
    "all on one node": (lambda r: pod(r).pop("affinity"), "one node may get all"),
    "no volume at /data": (
        lambda r: [container(r, part)["volumeMounts"].pop(0) for part in ("init", "redis")],
        "no claim is mounted at its DATA, '/data'",
    ),
    "data in memory": (
        lambda r: [container(r, part)["volumeMounts"][0].update(name="tmp") for part in ("init", "redis")],
        "no claim is mounted at its DATA",
    ),
    "a server with known holes": (
        lambda r: container(r).update(image="docker.io/valkey/valkey:9.1.1"), "9.1.1, which has known holes",
    ),
    "a server of years ago": (
        lambda r: container(r).update(image="docker.io/library/redis:7.0.15@sha256:00"), "redis 7.0.15, which has",
    ),
    "a server that nobody knows": (
        lambda r: container(r).update(image="docker.io/bitnami/redis-server:8.0.0"), "which has known holes",
    ),
    "two versions in a pod": (
        lambda r: container(r).update(image="docker.io/valkey/valkey:9.2.0"), "in different images",
    ),
    "a name that nobody finds": (
        lambda r: container(r)["env"][2].update(value="$(POD).nodes.$(NAMESPACE).svc:6379"), "nobody finds it but",
    ),
    "a name without its pod": (
        lambda r: container(r)["env"][0]["valueFrom"]["fieldRef"].update(fieldPath="metadata.uid"), "POD is @meta",
    ),
    "a Sentinel too few": (
        lambda r: container(r)["env"][3].update(value=container(r)["env"][3]["value"].rpartition(" ")[0]),
        "SENTINELS is not the list",
    ),
    "a primary that is none": (
        lambda r: pod(r, "sentinel")["containers"][0]["env"][4].update(value="redis:6379"),
        "FIRST is redis:6379, which is no server",
    ),
    "no way to the others": (
        lambda r: policy(r, "aikcache-peers")["egress"][0]["ports"].pop(1), "may not ask the others on port 26379",
    ),
    "names by TCP alone": (
        lambda r: policy(r, "aikcache")["egress"][0]["ports"].pop(0), "by UDP and by TCP",
    ),
    "a budget that lets two go": (lambda r: budget(r).update(minAvailable=1), "more than one of 3"),
    "a budget of what may go that lets two go": (
        lambda r: (budget(r).pop("minAvailable"), budget(r).update(maxUnavailable=2)), "more than one of 3",
    ),
    "a budget in per cent": (lambda r: budget(r).update(minAvailable="67%"), "is to say how many pods stay"),
    "a monitor that waits too long": (lambda r: endpoint(r).update(scrapeTimeout="45s"), "which Prometheus refuses"),
    "a monitor that waits for nothing": (lambda r: endpoint(r).update(scrapeTimeout="ten"), "which Prometheus refuses"),
    "one name twice": (lambda r: r.append(copy.deepcopy(get(r, "Service", "redis"))), "is there twice"),
    "a name with a capital": (
        lambda r: get(r, "ServiceMonitor", "aikcache")["metadata"].update(name="Aikcache"), "that Kubernetes refuses",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_overlay_is_without_fault(shipped: dict[str, Resources], name: str) -> None:
    """Of those that have no schema: between resources, and within pods."""
    assert check(shipped[name]) == []


CLUSTER: dict[str, tuple[Change, str]] = {
    "a preStop that asks Sentinels": (
        lambda r: container(r)["lifecycle"]["preStop"]["exec"].update(command=["/scripts/prestop-redis.sh"]),
        "run /scripts/prestop-cluster.sh",
    ),
    "no preStop": (lambda r: container(r).pop("lifecycle"), "run /scripts/prestop-cluster.sh"),
    "all on one node": (lambda r: pod(r)["topologySpreadConstraints"].pop(), "one node may get all"),
    "no bus": (
        lambda r: policy(r, "aikcache-peers")["egress"][0]["ports"].pop(), "may not ask the others on port 16379",
    ),
    "a Job with known holes": (
        lambda r: spec(r, "Job", "form")["template"]["spec"]["containers"][0].update(image="docker.io/redis:7.2.4"),
        "Job form-cluster: form-cluster is redis 7.2.4",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLUSTER)
def test_a_broken_copy_of_the_cluster_is_caught(shipped: dict[str, Resources], name: str) -> None:
    """What only its overlay has."""
    change, expected = CLUSTER[name]
    broken = copy.deepcopy(shipped["cluster"])
    change(broken)
    assert expected in "\n".join(check(broken))


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_copy_is_caught(shipped: dict[str, Resources], name: str) -> None:
    """By the rule that is for it, in the overlay for production."""
    change, expected = BROKEN[name]
    broken = copy.deepcopy(shipped["prod"])
    change(broken)
    assert expected in "\n".join(check(broken))


def test_the_schemas_see_a_misspelt_field(shipped: dict[str, Resources], monkeypatch: pytest.MonkeyPatch) -> None:
    """Which an API server drops without a word, unless it is asked to be strict."""
    try:
        tool("kubernetes-validate")
    except Missing as error:
        pytest.skip(str(error))
    monkeypatch.setattr("ops.check.manifests.VERSIONS", ("1.37",))
    broken = [copy.deepcopy(get(shipped["prod"], "StatefulSet", "redis"))]
    assert schemas(broken) == []
    broken[0]["spec"]["template"]["spec"]["terminationGracePeriod"] = 90
    assert "terminationGracePeriod" in "\n".join(schemas(broken))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda r: endpoint(r).update(scrapeTimeout="ten"), "spec.endpoints.0.scrapeTimeout: 'ten'"),
        (lambda r: endpoint(r).update(metricRelabellings=[]), "'metricRelabellings' was unexpected"),
        (lambda r: endpoint(r).update(port=9121), "spec.endpoints.0.port: 9121 is not of type 'string'"),
        (lambda r: spec(r, "ServiceMonitor", "aikcache").pop("selector"), "'selector' is a required property"),
        (lambda r: spec(r, "PrometheusRule", "aikcache")["groups"][0].update(every="30s"), "'every' was unexpected"),
        (lambda r: rule(r).pop("expr"), "'expr' is a required property"),
        (lambda r: rule(r).update({"for": "five minutes"}), "'five minutes' does not match"),
        (lambda r: rule(r)["labels"].update(severity=1), "severity: 1 is not of type 'string'"),
    ],
)  # fmt: skip
def test_the_operators_schemas_see_what_they_would_refuse(
    shipped: dict[str, Resources], change: Change, expected: str
) -> None:
    """A type, a field that nobody knows, one that is missing, and a duration."""
    pytest.importorskip("jsonschema")
    broken = copy.deepcopy(shipped["prod"])
    assert custom.check(broken) == []
    change(broken)
    assert expected in "\n".join(custom.check(broken))


def rule(resources: Resources) -> Any:
    return spec(resources, "PrometheusRule", "aikcache")["groups"][0]["rules"][3]


def test_the_pods_have_the_very_files_that_the_tests_start(shipped: dict[str, Resources]) -> None:
    """Nothing is copied into the manifests by hand."""
    for config, directory in (("redis-config", "redis"), ("redis-scripts", "scripts")):
        data = get(shipped["prod"], "ConfigMap", config)["data"]
        files = [path for path in (OPS / directory).iterdir() if path.suffix != ".yaml"]
        assert data == {path.name: path.read_text(encoding="utf-8") for path in files}


def test_what_was_asked_for_is_in_the_overlay_for_production(shipped: dict[str, Resources]) -> None:
    """Three and three on nodes of their own, 10Gi of fast-ssd, two of three kept, metrics on 9121 every 30 seconds."""
    prod = shipped["prod"]
    assert [spec(prod, "StatefulSet", name)["replicas"] for name in ("redis", "sentinel")] == [3, 3]
    claim = spec(prod, "StatefulSet", "redis")["volumeClaimTemplates"][0]["spec"]
    assert (claim["storageClassName"], claim["resources"]["requests"]["storage"]) == ("fast-ssd", "10Gi")
    for name in ("redis", "sentinel"):
        apart = pod(prod, name)["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        assert apart[0]["topologyKey"] == "kubernetes.io/hostname"
        assert spec(prod, "PodDisruptionBudget", name)["minAvailable"] == 2
    assert container(prod, "exporter")["ports"] == [{"name": "metrics", "containerPort": 9121}]


def test_the_servers_for_sessions_never_evict(shipped: dict[str, Resources]) -> None:
    """By the profile that the tests of the scripts start; it is not the profile of the cache."""
    for part in ("init", "redis"):
        profiles = {
            name: [one["value"] for one in container(resources, part)["env"] if one["name"] == "PROFILE"]
            for name, resources in shipped.items()
        }
        assert profiles == {"cluster": ["cluster"], "dev": [], "durable": ["durable"], "prod": [], "tls": []}
    assert "maxmemory-policy noeviction" in get(shipped["durable"], "ConfigMap", "redis-config")["data"]["durable.conf"]


def test_the_example_of_an_application_is_without_fault() -> None:
    """It has what a stranger copies: no password in the open, limits, and pages that a Flask application really has."""
    try:
        resources = build(OPS / "k8s" / "example")
    except Missing as error:
        pytest.skip(str(error))
    assert check(resources) == []
    app = Flask("shop")
    app.config.update(AIKCACHE_INSTANCE="aikernel")
    Aikcache(app, default=False)
    client = app.test_client()
    (server,) = get(resources, "Deployment", "shop")["spec"]["template"]["spec"]["containers"]
    asked = {server[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    asked |= {one["path"] for one in get(resources, "ServiceMonitor", "shop")["spec"]["endpoints"]}
    assert {path: client.get(path).status_code for path in asked} == {"/health/cache": 200, "/metrics/cache": 200}
    app.extensions["aikcache"].close()
    assert "redis-client" in get(resources, "Deployment", "shop")["spec"]["template"]["metadata"]["labels"]


def test_quantities() -> None:
    """As Kubernetes writes them."""
    assert [quantity(text) for text in ("500m", "2", "4Gi", 1, "4GB", "", None)] == [0.5, 2, 2**32, 1, None, None, None]
