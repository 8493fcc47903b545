"""gunicorn --preload: the application is made once, in the master, and its workers are forked from it.

    export AIKCACHE_URL=redis://127.0.0.1:6379/0
    gunicorn --preload --workers 2 --chdir examples/works_with preload:app

What the master loaded while the application was made is in every worker already. Each worker connects by itself.
"""

from __future__ import annotations

import os

from flask import Flask

from aikcache import cached
from aikcache.flask import Aikcache

app = Flask(__name__)
app.config.update(AIKCACHE_INSTANCE="preload")
Aikcache(app)


@cached("config", ttl=300)
def configuration() -> dict[str, int]:
    return {"loaded_by": os.getpid()}


configuration()  # in the master


@app.get("/")
def show() -> dict[str, int]:
    return {**configuration(), "answered_by": os.getpid(), "master": os.getppid()}


@app.post("/change")
def change() -> tuple[str, int]:
    configuration.invalidate()
    return "", 204
