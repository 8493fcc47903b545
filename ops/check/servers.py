"""What a set of servers or Sentinels needs that no schema asks for: how it starts and stops, and whom it finds.

Each of these can be left out of a manifest that every validator accepts, and is missed at the first failover.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .bundle import Bundle, Pods, Resource, name

LEAST = {"valkey": (9, 1, 2), "redis": (7, 2, 16)}
"""Older ones have known holes."""
ZONE, NODE = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
LOADING = 60
"""Seconds that a server may take to load its data, at least."""


def server_rules(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """Of a StatefulSet; what else runs the shipped scripts is asked for its image alone."""
    yield from images(pods)
    if pods.resource["kind"] == "StatefulSet":
        for rule in (starts, stops, keeps, spread, finds):
            yield from rule(pods, bundle)


def kind_of(pods: Pods) -> str:
    """`redis` or `sentinel`, as the argument of its script says."""
    return str([*pods.spec["containers"][0].get("command", []), "", ""][1])


def settings(container: Resource) -> dict[str, str]:
    """Its variables; one that is read from the pod is `@path`."""
    return {
        one["name"]: one.get("value") or "@" + one.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath", "")
        for one in container.get("env", ())
    }


def script(handler: Resource) -> str:
    return str((handler.get("exec", {}).get("command") or [""])[0])


def starts(pods: Pods, bundle: Bundle) -> Iterator[str]:
    kind, server = kind_of(pods), pods.spec["containers"][0]
    if [one.get("command") for one in pods.spec.get("initContainers", ())][:1] != [[f"/scripts/init-{kind}.sh"]]:
        yield f"no init container asks who is the primary: the first is to run /scripts/init-{kind}.sh"
    wanted = {"livenessProbe": "/scripts/live.sh", "readinessProbe": f"/scripts/ready-{kind}.sh"}
    if kind == "redis":
        wanted["startupProbe"] = "/scripts/live.sh"
        probe = server.get("startupProbe", {})
        if probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3) < LOADING:
            yield f"it has no startupProbe of {LOADING} seconds: it is restarted while it loads its data"
    for probe_kind, path in wanted.items():
        if script(server.get(probe_kind, {})) != path:
            yield f"its {probe_kind} does not run {path}"


def stops(pods: Pods, bundle: Bundle) -> Iterator[str]:
    if kind_of(pods) != "redis":
        return
    server = pods.spec["containers"][0]
    wanted = "cluster" if settings(server).get("PROFILE") == "cluster" else "redis"
    if script(server.get("lifecycle", {}).get("preStop", {})) != f"/scripts/prestop-{wanted}.sh":
        yield f"it hands over to nobody before it stops: its preStop is to run /scripts/prestop-{wanted}.sh"


def keeps(pods: Pods, bundle: Bundle) -> Iterator[str]:
    claims = {name(one) for one in pods.resource["spec"].get("volumeClaimTemplates", ())}
    for container in (*pods.spec.get("initContainers", ()), pods.spec["containers"][0]):
        data = settings(container).get("DATA", "")
        if not any(mount["mountPath"] == data and mount["name"] in claims for mount in container["volumeMounts"]):
            yield f"{container['name']} forgets everything at its end: no claim is mounted at its DATA, {data!r}"


def spread(pods: Pods, bundle: Bundle) -> Iterator[str]:
    apart = pods.spec.get("affinity", {}).get("podAntiAffinity", {})
    required = apart.get("requiredDuringSchedulingIgnoredDuringExecution", ())
    over = {one["topologyKey"] for one in pods.spec.get("topologySpreadConstraints", ())}
    if NODE not in over | {one["topologyKey"] for one in required}:
        yield "one node may get all of its pods: neither anti-affinity nor a spread is about nodes"
    if ZONE not in over:
        yield "one zone may get all of its pods"


def finds(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """The addresses are those of pods that there are."""
    kind, given = kind_of(pods), settings(pods.spec["containers"][0])
    port = 6379 if kind == "redis" else 26379
    own = f"$(POD).{pods.resource['spec'].get('serviceName')}.$(NAMESPACE).svc:{port}"
    for key, value in {"POD": "@metadata.name", "NAMESPACE": "@metadata.namespace", "SELF": own}.items():
        if given.get(key) != value:
            yield f"{key} is {given.get(key)}, and nobody finds it but by {value}"
    if kind == "sentinel":
        if given.get("FIRST") not in addresses(bundle, "redis"):
            yield f"FIRST is {given.get('FIRST')}, which is no server"
    elif given.get("PROFILE") != "cluster" and given.get("SENTINELS", "").split() != addresses(bundle, "sentinel"):
        yield "SENTINELS is not the list of the Sentinels"


def addresses(bundle: Bundle, kind: str) -> list[str]:
    """Of all servers, or Sentinels."""
    port = 6379 if kind == "redis" else 26379
    return [
        f"{name(pods.resource)}-{number}.{pods.resource['spec']['serviceName']}.$(NAMESPACE).svc:{port}"
        for pods in bundle.pods()
        if pods.resource["kind"] == "StatefulSet" and kind_of(pods) == kind
        for number in range(pods.replicas)
    ]


def images(pods: Pods) -> Iterator[str]:
    ours = [one for one in pods.containers if str((one.get("command") or [""])[0]).startswith("/scripts/")]
    if len({one["image"] for one in ours}) > 1:
        yield "its containers run the scripts in different images"
    for one in ours:
        program, _, tag = one["image"].partition("@")[0].rpartition("/")[2].partition(":")
        version = tuple(map(int, re.findall(r"\d+", tag)))[:3]
        if program not in LEAST or version < LEAST[program]:
            least = " or ".join(f"{known} {'.'.join(map(str, parts))}" for known, parts in LEAST.items())
            yield f"{one['name']} is {program} {tag}, which has known holes: {least} at least"
