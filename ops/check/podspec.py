"""Within a pod: its references, its limits, its probes, and what it may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .bundle import Bundle, Pods, Resource, name

PASSWORDS = {"cache", "session", "monitor", "replication", "sentinel", "operator", "sentinels"}
SECRETS = {"redis-passwords": PASSWORDS, "redis-tls": {"tls.crt", "tls.key", "ca.crt"}}
"""The Secrets that an operator makes, and what is in them; docs/runbook.md says how."""
_UNITS = {"": 1, "m": 0.001, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]*)")
_PROBES = ("startupProbe", "livenessProbe", "readinessProbe")


def quantity(text: Any) -> float | None:
    """Of a quantity, as 4Gi or 500m; None: it is none."""
    found = _QUANTITY.fullmatch(str(text))
    return float(found[1]) * _UNITS[found[2]] if found and found[2] in _UNITS else None


def pod_rules(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """Everything that is wrong within the pods of a workload."""
    for rule in (account, volumes, neighbours, patience, restarts):
        yield from rule(pods, bundle)
    for container in pods.containers:
        for check in (mounts, environment, resources, probes, rights, image):
            for wrong in check(container, pods, bundle):
                yield f"{container['name']}: {wrong}"


def account(pods: Pods, bundle: Bundle) -> Iterator[str]:
    if pods.spec.get("serviceAccountName") not in bundle.names("ServiceAccount"):
        yield f"there is no ServiceAccount {pods.spec.get('serviceAccountName')}"
    if pods.spec.get("automountServiceAccountToken") is not False:
        yield "its pods get a token of the API, which they do not need"


def volumes(pods: Pods, bundle: Bundle) -> Iterator[str]:
    used = {mount["name"] for one in pods.containers for mount in one.get("volumeMounts", ())}
    for volume in pods.spec.get("volumes", ()):
        if volume["name"] not in used:
            yield f"nobody mounts the volume {volume['name']}"
        config, secret = volume.get("configMap"), volume.get("secret")
        if config and config["name"] not in bundle.names("ConfigMap"):
            yield f"there is no ConfigMap {config['name']}"
        if secret and secret["secretName"] not in SECRETS:
            yield f"there is no Secret {secret['secretName']}"
        if secret and secret.get("defaultMode", 0o644) & 0o007:
            yield f"everybody may read the Secret {secret['secretName']}"


def neighbours(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """Those that it keeps away from are its like."""
    apart = pods.spec.get("affinity", {}).get("podAntiAffinity", {})
    terms = list(apart.get("requiredDuringSchedulingIgnoredDuringExecution", ()))
    terms += [one["podAffinityTerm"] for one in apart.get("preferredDuringSchedulingIgnoredDuringExecution", ())]
    for term in [*terms, *pods.spec.get("topologySpreadConstraints", ())]:
        wanted: Mapping[str, str] = term["labelSelector"].get("matchLabels", {})
        if not wanted or not wanted.items() <= pods.labels.items():
            yield "it keeps away from other pods than its own"
        if "whenUnsatisfiable" in term and term["whenUnsatisfiable"] not in ("ScheduleAnyway", "DoNotSchedule"):
            yield f"whenUnsatisfiable cannot be {term['whenUnsatisfiable']}"


def patience(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """A preStop script may take WAIT seconds, and the server its time to end."""
    for container in pods.spec["containers"]:
        given = {one["name"]: one.get("value", "") for one in container.get("env", ())}
        if "preStop" in container.get("lifecycle", {}):
            needed = int(given.get("WAIT", "60")) + 10
            if pods.spec.get("terminationGracePeriodSeconds", 30) < needed:
                yield f"it is killed before its preStop script has ended: {needed} seconds at least"


def restarts(pods: Pods, bundle: Bundle) -> Iterator[str]:
    """A container restarts without its init containers, so it does itself what the first of them does."""
    for init in pods.spec.get("initContainers", ())[:1]:
        first = pods.spec["containers"][0]
        if first.get("command", [""])[0] != "/scripts/serve.sh":
            yield f"{first['name']} starts without asking who is the primary when its container restarts"
        for key in ("env", "volumeMounts"):
            if first.get(key) != init.get(key):
                yield f"{first['name']} has another {key} than {init['name']}, whose script it runs"


def mounts(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    claims = {name(one) for one in pods.resource["spec"].get("volumeClaimTemplates", ())}
    known = {one["name"]: one for one in pods.spec.get("volumes", ())}
    at = {one["mountPath"]: one["name"] for one in container.get("volumeMounts", ())}
    if len(at) < len(container.get("volumeMounts", ())):
        yield "two volumes are mounted at one place"
    for volume in at.values():
        if volume not in claims | set(known):
            yield f"there is no volume {volume}"
    for command in commands(container):
        directory, _, script = command.rpartition("/")
        config = known.get(at.get(directory, ""), {}).get("configMap")
        if config:
            maps = [one for one in bundle.of("ConfigMap") if name(one) == config["name"]]
            if maps and script not in maps[0]["data"]:
                yield f"there is no script {command}"
            if not config.get("defaultMode", 0o644) & 0o111:
                yield f"nobody may run {command}"
        elif command.endswith(".sh"):
            yield f"there is no script {command}"


def commands(container: Resource) -> Iterator[str]:
    """Whatever is run in a container."""
    handlers = [container.get(probe, {}) for probe in _PROBES] + list(container.get("lifecycle", {}).values())
    for command in [container.get("command", []), *(one.get("exec", {}).get("command", []) for one in handlers)]:
        yield from command[:1]


def environment(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    before: set[str] = set()
    for one in container.get("env", ()):
        for used in re.findall(r"\$\((\w+)\)", str(one.get("value", ""))):
            if used not in before:
                yield f"{one['name']} uses {used}, which is not set before it"
        if "PASSWORD" in one["name"] and one.get("value") and not one["value"].startswith("$("):
            yield f"{one['name']} is a secret in the open"
        secret = one.get("valueFrom", {}).get("secretKeyRef")
        if secret and secret["key"] not in SECRETS.get(secret["name"], ()):
            yield f"there is no Secret {secret['name']} with {secret['key']}"
        if one["name"] in before:
            yield f"{one['name']} is set twice"
        before.add(one["name"])


def resources(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    wanted, most = (container.get("resources", {}).get(key, {}) for key in ("requests", "limits"))
    for kind in ("cpu", "memory"):
        low, high = quantity(wanted.get(kind)), quantity(most.get(kind))
        if low is None or high is None:
            yield f"it has no request or no limit of {kind}, or one that is no quantity"
        elif low > high:
            yield f"it requests more {kind} than its limit"


def probes(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    if container in pods.spec.get("initContainers", ()) or pods.resource["kind"] == "Job":
        return
    yield from (f"it has no {kind}" for kind in ("livenessProbe", "readinessProbe") if kind not in container)
    named = {one.get("name") for one in container.get("ports", ())}
    numbers = {one["containerPort"] for one in container.get("ports", ())}
    for kind in _PROBES:
        probe = container.get(kind, {})
        if "exec" in probe and "timeoutSeconds" not in probe:
            yield f"its {kind} has one second, which a busy node exceeds"
        if "httpGet" in probe and probe["httpGet"]["port"] not in named | numbers:
            yield f"its {kind} asks a port that it does not have"
        if kind != "readinessProbe" and any("/ready-" in word for word in probe.get("exec", {}).get("command", ())):
            yield f"its {kind} asks about the others: all would be restarted at once"


def rights(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    pod, own = pods.spec.get("securityContext", {}), container.get("securityContext", {})
    if not pod.get("runAsNonRoot") or pod.get("runAsUser") == 0 or own.get("runAsUser") == 0:
        yield "it may run as root"
    if pod.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "it may make any system call"
    if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
        yield "it may gain privileges"
    if not own.get("readOnlyRootFilesystem"):
        yield "it may write to its root file system"
    if own.get("capabilities", {}).get("drop") != ["ALL"] or own.get("capabilities", {}).get("add"):
        yield "it keeps capabilities"


def image(container: Resource, pods: Pods, bundle: Bundle) -> Iterator[str]:
    _, _, tag = container["image"].rpartition("/")[2].partition(":")
    if not tag or tag == "latest":
        yield f"its image {container['image']} is not pinned"
    if container.get("imagePullPolicy", "IfNotPresent") not in ("IfNotPresent", "Always", "Never"):
        yield f"imagePullPolicy cannot be {container['imagePullPolicy']}"
