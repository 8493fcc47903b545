"""The custom resources against the schemas of Prometheus' operator, as a strict API server would.

`operator.json` is made of its own definitions (version 0.93.0, Apache License 2.0), without their descriptions:

    python -m ops.check.custom monitoring.coreos.com_servicemonitors.yaml monitoring.coreos.com_prometheusrules.yaml
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from .bundle import Resource, label
from .tools import Missing

FILE = Path(__file__).with_name("operator.json")


def check(resources: list[Resource]) -> list[str]:
    """What the operator's schemas refuse, by resource and field; a kind that they do not know is none of theirs.

    Raises:
        Missing: nothing here reads schemas.
    """
    try:
        validator: Any = importlib.import_module("jsonschema").Draft7Validator  # comes with kubernetes-validate
    except ImportError:
        raise Missing("jsonschema is not installed: pip install -e .[ops]") from None
    known = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        f"{label(one)}: {'.'.join(map(str, error.absolute_path))}: {error.message[:200]}"
        for one in resources
        if one["kind"] in known
        for error in sorted(validator(known[one["kind"]]).iter_errors(one), key=lambda error: str(error.path))
    ]


def strict(schema: Any) -> Any:
    """As Kubernetes reads it: a field that is not named there is unknown. Without what is for people to read."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    fields = schema.get("properties")
    rest = {key: strict(one) for key, one in schema.items() if key not in ("description", "properties", "format")}
    rest = {key: one for key, one in rest.items() if not key.startswith("x-kubernetes-")}
    if isinstance(fields, dict):
        rest["properties"] = {name: strict(one) for name, one in fields.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            rest["additionalProperties"] = False
    return rest


def made_of(paths: list[str]) -> dict[str, Any]:
    """By kind, of the newest version that is served."""
    found = {}
    for path in paths:
        spec = yaml.safe_load(Path(path).read_text(encoding="utf-8"))["spec"]
        schema = strict(spec["versions"][-1]["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
        found[spec["names"]["kind"]] = schema
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps(made_of(sys.argv[1:]), indent=1, sort_keys=True) + "\n", encoding="utf-8")
