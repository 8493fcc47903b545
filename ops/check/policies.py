"""The manifests as checkov sees them: common policies for Kubernetes, but for those that are passed over with a reason.

checkov is not among the pinned tools: it brings 97 packages, 290 MB and 46 seconds of CPU to install, and found one
thing that the other checks had not. Whoever has it on PATH gets this check; a release is to be made with it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import yaml

from .manifests import EXAMPLE, OVERLAY, OVERLAYS, build
from .tools import complaints, tool

PASSED_OVER = {
    "CKV_K8S_15": "pinned tags do not change: a pod shall start again while the registry is away",
    "CKV_K8S_35": "the exporter reads one password from its environment alone; the example's URL is made there of two",
    "CKV_K8S_40": "999 is the user that the image was made for; nothing of the host is mounted",
    "CKV_K8S_43": "the digests are not known here; base/kustomization.yaml says how to add them",
}
"""What is not asked for, and why."""


def check() -> list[str]:
    """What checkov finds in any overlay."""
    tool("checkov")
    with tempfile.TemporaryDirectory() as directory:
        for name in (*OVERLAYS, EXAMPLE):
            path = Path(directory) / f"{Path(name).name}.yaml"
            path.write_text(yaml.safe_dump_all(build(OVERLAY / name)), encoding="utf-8")
        quiet = ["--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]
        return complaints("checkov", *quiet, "--skip-check", ",".join(PASSED_OVER), "--directory", directory)
