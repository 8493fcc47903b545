"""The resources of one overlay, as kustomize builds them, and how they find each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Resource = dict[str, Any]
WORKLOADS = ("StatefulSet", "Deployment", "Job")


@dataclass(frozen=True, slots=True)
class Pods:
    """What a workload makes: so many pods with these labels."""

    owner: str
    resource: Resource
    labels: Mapping[str, str]
    spec: Resource
    replicas: int

    @property
    def containers(self) -> list[Resource]:
        """Those that come first as well."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


class Bundle:
    """All resources, looked up by kind."""

    def __init__(self, resources: list[Resource]) -> None:
        self.resources = resources

    def of(self, kind: str) -> list[Resource]:
        """All of one kind."""
        return [one for one in self.resources if one["kind"] == kind]

    def names(self, kind: str) -> set[str]:
        """Their names."""
        return {name(one) for one in self.of(kind)}

    def pods(self) -> Iterator[Pods]:
        """Of every workload."""
        for kind in WORKLOADS:
            for one in self.of(kind):
                template = one["spec"]["template"]
                labels = template["metadata"].get("labels", {})
                yield Pods(label(one), one, labels, template["spec"], one["spec"].get("replicas", 1))

    def selected(self, selector: Mapping[str, str] | None) -> list[Pods]:
        """The pods that have all these labels; an empty selector means nobody here, it is never meant."""
        return [one for one in self.pods() if selector and matches(selector, one.labels)]


def matches(selector: Mapping[str, str], labels: Mapping[str, str]) -> bool:
    return selector.items() <= labels.items()


def name(resource: Resource) -> str:
    return str(resource["metadata"]["name"])


def label(resource: Resource) -> str:
    """As in messages."""
    return f"{resource['kind']} {name(resource)}"
