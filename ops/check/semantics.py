"""Between the resources: whether what one names is there, and fits. No schema sees that."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from ops.prometheus.files import groups

from .bundle import Bundle, Pods, Resource, label, matches, name
from .podspec import pod_rules, quantity
from .servers import server_rules

Rule = Callable[[Bundle], Iterator[str]]

API = {
    "ConfigMap": "v1", "Service": "v1", "ServiceAccount": "v1", "StatefulSet": "apps/v1", "Deployment": "apps/v1",
    "Job": "batch/v1", "PodDisruptionBudget": "policy/v1", "NetworkPolicy": "networking.k8s.io/v1",
    "ServiceMonitor": "monitoring.coreos.com/v1", "PrometheusRule": "monitoring.coreos.com/v1",
}  # fmt: skip
"""Every kind that is shipped, and the version that Kubernetes serves. A Secret is not among them: none is shipped."""
MONITOR = {"selector", "endpoints", "namespaceSelector", "jobLabel", "targetLabels", "podTargetLabels"}
ENDPOINT = {"port", "interval", "scrapeTimeout", "path", "scheme", "relabelings", "metricRelabelings"}


def check(resources: list[Resource]) -> list[str]:
    """All that is wrong with an overlay."""
    bundle = Bundle(resources)
    found = [wrong for rule in RULES for wrong in rule(bundle)]
    for pods in bundle.pods():
        found += [f"{pods.owner}: {wrong}" for wrong in (*pod_rules(pods, bundle), *server_rules(pods, bundle))]
    return found


def kinds(bundle: Bundle) -> Iterator[str]:
    twice = Counter((one["kind"], one["metadata"].get("namespace"), name(one)) for one in bundle.resources)
    yield from (f"{kind} {called} is there twice" for (kind, _, called), count in twice.items() if count > 1)
    for one in bundle.resources:
        if one["apiVersion"] != API.get(one["kind"]):
            yield f"{label(one)} is of {one['apiVersion']}, which should be {API.get(one['kind'], 'nothing shipped')}"
        if not name(one).replace("-", "").isalnum() or name(one) != name(one).lower() or len(name(one)) > 63:
            yield f"{label(one)} has a name that Kubernetes refuses"


def services(bundle: Bundle) -> Iterator[str]:
    for one in bundle.of("Service"):
        chosen = bundle.selected(one["spec"].get("selector"))
        if not chosen:
            yield f"{label(one)} selects no pods"
        for port in one["spec"]["ports"]:
            if len(port.get("name", "")) > 15:
                yield f"{label(one)} has the port {port['name']}, longer than 15"
            target = port.get("targetPort", port["port"])
            for pods in chosen:
                if target not in ports(pods):
                    yield f"{label(one)} leads to port {target}, which {pods.owner} does not have"


def ports(pods: Pods) -> dict[str | int, int]:
    """Its ports, by name and by number."""
    all_of_them = [port for one in pods.containers for port in one.get("ports", ())]
    return {
        key: port["containerPort"] for port in all_of_them for key in (port.get("name"), port["containerPort"]) if key
    }


def workloads(bundle: Bundle) -> Iterator[str]:
    for pods in bundle.pods():
        spec = pods.resource["spec"]
        selector = spec.get("selector", {}).get("matchLabels", {})
        if pods.resource["kind"] != "Job" and not (selector and matches(selector, pods.labels)):
            yield f"{pods.owner} does not select the pods that it makes"
        if pods.resource["kind"] == "StatefulSet":
            yield from stateful(bundle, pods)


def stateful(bundle: Bundle, pods: Pods) -> Iterator[str]:
    spec = pods.resource["spec"]
    own = [one for one in bundle.of("Service") if name(one) == spec.get("serviceName")]
    if not own or own[0]["spec"].get("clusterIP") != "None":
        yield f"{pods.owner} has no headless Service {spec.get('serviceName')}"
    elif not matches(own[0]["spec"].get("selector", {}), pods.labels):
        yield f"{pods.owner} has a Service that selects other pods"
    elif not own[0]["spec"].get("publishNotReadyAddresses"):
        yield f"{pods.owner} has no names before it is ready, so the pods do not find each other"
    if spec.get("podManagementPolicy") != "Parallel":
        yield f"{pods.owner} starts pods one by one, and each waits for the others"
    for claim in spec.get("volumeClaimTemplates", ()):
        if claim["spec"]["accessModes"] != ["ReadWriteOnce"]:
            yield f"{pods.owner} shares its volume"
        if quantity(claim["spec"]["resources"]["requests"].get("storage")) is None:
            yield f"{pods.owner} asks for a volume of no size"


def budgets(bundle: Bundle) -> Iterator[str]:
    for one in bundle.of("PodDisruptionBudget"):
        spec = one["spec"]
        chosen = bundle.selected(spec.get("selector", {}).get("matchLabels"))
        if not chosen:
            yield f"{label(one)} matches no pods"
        if ("minAvailable" in spec) == ("maxUnavailable" in spec):
            yield f"{label(one)} needs minAvailable or maxUnavailable, and not both"
        there = sum(pods.replicas for pods in chosen)
        stay = spec.get("minAvailable", there - spec["maxUnavailable"] if "maxUnavailable" in spec else 0)
        if type(stay) is not int:
            yield f"{label(one)} is to say how many pods stay, not {stay}"
        elif chosen and stay >= there:
            yield f"{label(one)} lets no node be drained"
        elif chosen and stay < there - 1:
            yield f"{label(one)} lets more than one of {there} pods go at once"
    covered = [spec["spec"].get("selector", {}).get("matchLabels", {}) for spec in bundle.of("PodDisruptionBudget")]
    for pods in bundle.pods():
        if pods.resource["kind"] == "StatefulSet" and not any(matches(one, pods.labels) for one in covered):
            yield f"{pods.owner} has no PodDisruptionBudget"


def networks(bundle: Bundle) -> Iterator[str]:
    policies = bundle.of("NetworkPolicy")
    for one in policies:
        if not bundle.selected(one["spec"]["podSelector"].get("matchLabels")):
            yield f"{label(one)} is for no pods"
    servers = [pods for pods in bundle.pods() if pods.resource["kind"] == "StatefulSet"]
    peers = {port for pods in servers for port in ports(pods).values()} - {9121}
    for pods in bundle.pods():
        if pods.resource["kind"] == "Deployment":  # an application, and its owner's business
            continue
        own = [
            one["spec"] for one in policies if matches(one["spec"]["podSelector"].get("matchLabels", {}), pods.labels)
        ]
        denied = {direction for spec in own for direction in spec["policyTypes"]}
        if denied != {"Ingress", "Egress"}:
            yield f"{pods.owner} is not closed to the network in both directions"
        asked = {
            (port["port"], port.get("protocol", "TCP"))
            for spec in own
            for rule in spec.get("egress", ())
            for port in rule.get("ports", ())
        }
        if not {(53, "UDP"), (53, "TCP")} <= asked:
            yield f"{pods.owner} may not resolve names, by UDP and by TCP"
        for port in sorted(peers - {port for port, protocol in asked if protocol == "TCP"}):
            yield f"{pods.owner} may not ask the others on port {port}"
        opened = {port["port"] for spec in own for rule in spec.get("ingress", ()) for port in rule.get("ports", ())}
        wanted = set(ports(pods).values()) - (set() if bundle.of("ServiceMonitor") else {9121})
        yield from (f"{pods.owner} cannot be reached on its port {port}" for port in sorted(wanted - opened))
        for rule in (rule for spec in own for rule in spec.get("ingress", ())):
            if not rule.get("from") or not rule.get("ports"):
                yield f"{pods.owner} is open to everybody, or on every port"


def monitors(bundle: Bundle) -> Iterator[str]:
    for one in bundle.of("ServiceMonitor"):
        spec = one["spec"]
        yield from (f"{label(one)} has the unknown field {field}" for field in sorted(set(spec) - MONITOR))
        wanted = spec["selector"].get("matchLabels", {})
        chosen = [service for service in bundle.of("Service") if matches(wanted, service["metadata"].get("labels", {}))]
        if not wanted or not chosen:
            yield f"{label(one)} selects no Services"
        offered = {port.get("name") for service in chosen for port in service["spec"]["ports"]}
        for endpoint in spec["endpoints"]:
            yield from (f"{label(one)} has the unknown field {field}" for field in sorted(set(endpoint) - ENDPOINT))
            if endpoint.get("port") not in offered:
                yield f"{label(one)} asks the port {endpoint.get('port')}, which no Service calls so"
            if endpoint.get("interval") != "30s":
                yield f"{label(one)} scrapes every {endpoint.get('interval')}, the rules count on 30s"
            patience = re.fullmatch(r"(\d+)s", endpoint.get("scrapeTimeout", "10s"))
            if patience is None or not 0 < int(patience[1]) <= 30:
                yield f"{label(one)} waits {endpoint.get('scrapeTimeout')} for an answer, which Prometheus refuses"


def rules(bundle: Bundle) -> Iterator[str]:
    for one in bundle.of("PrometheusRule"):
        if one["spec"]["groups"] != groups():
            yield f"{label(one)} has other rules than those that promtool has read"


RULES: tuple[Rule, ...] = (kinds, services, workloads, budgets, networks, monitors, rules)
