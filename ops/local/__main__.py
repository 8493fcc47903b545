"""The shipped Redis configuration on this machine: three servers and three Sentinels, or a cluster, on loopback.

    python -m ops.local up|status|failover|down [--topology cluster] [--profile durable] [--port 16379] [--tls]

Exit status: 0 when it is as was asked for, 1 when it is not.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from aikcache.errors import AikcacheError
from aikcache.testing import find_server

from .fleet import Fleet, sentinel_facts
from .node import OPS, LocalError

PORT = 16379


def main(arguments: list[str] | None = None) -> int:
    """Do what was asked for; gives the exit status."""
    options = parse(arguments)
    try:
        fleet = Fleet.found(options.directory)
        if options.action == "up":
            return up(options, fleet)
        if fleet is None:
            print(f"Nothing is up: there is no {options.directory}. Start it by `make redis-up`.")
            return 0 if options.action == "down" else 1
        return {"status": status, "failover": failover, "down": down}[options.action](fleet)
    except (LocalError, AikcacheError) as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # as by `| head`: nobody reads on
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return 130


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m ops.local", description="The shipped Redis configuration, here.")
    parser.add_argument("action", choices=["up", "status", "failover", "down"])
    parser.add_argument("--topology", choices=["sentinel", "cluster"], help="default: sentinel")
    parser.add_argument("--profile", choices=["cache", "durable"], help="default: cache")
    parser.add_argument("--port", type=int, help=f"the first of sixteen (default: {PORT})")
    parser.add_argument("--tls", action="store_const", const=True, help="from a throw-away certificate authority")
    parser.add_argument("--server", choices=["valkey", "redis"], help="which server, if there are both")
    parser.add_argument("--directory", type=Path, default=OPS.parent / ".redis-local", help="where its files are")
    options = parser.parse_args(arguments)
    options.directory = options.directory.absolute()
    if options.port is not None and not 1024 <= options.port <= 55000:
        parser.error(f"--port must be from 1024 to 55000, got {options.port}")
    return options


def up(options: argparse.Namespace, fleet: Fleet | None) -> int:
    tls = options.tls if fleet is None else fleet.tls
    binary = find_server(options.server or ("redis" if tls and shutil.which("redis-server") else None))
    if fleet is None:
        topology, profile = options.topology or "sentinel", options.profile or "cache"
        fleet = Fleet(options.directory, topology, options.port or PORT, profile, tls=bool(tls))
        fleet.create(binary)
    elif differences := fleet.differences(
        topology=options.topology, profile=options.profile, port=options.port, tls=options.tls
    ):
        raise LocalError(f"What is up already has {differences}. End it first: make redis-down")
    else:
        started = fleet.start_missing(binary)
        print(f"Started again: {', '.join(node.name for node in started)}." if started else "It is up already.")
        fleet.until(fleet.healthy, "all of it to work together")
    return status(fleet)


def status(fleet: Fleet) -> int:
    for node in fleet.servers:
        info = node.info()
        role = {"master": "primary", "slave": f"replica of {info.get('master_port')}"}.get(info.get("role", ""), "down")
        link = f", link {info['master_link_status']}" if "master_link_status" in info else ""
        print(f"{node.name:<12}port {node.port}  pid {node.pid() or '-':<8} {role}{link}")
    for node in fleet.sentinels:
        facts = sentinel_facts(node)
        state = f"primary is {facts['port']}, {facts['num-other-sentinels']} other Sentinels" if facts else "down"
        print(f"{node.name:<12}port {node.port}  pid {node.pid() or '-':<8} {state}")
    well = fleet.healthy()
    print(f"\n{'All is well.' if well else 'Something is missing. `make redis-up` starts it again.'}")
    print(f"Passwords and logs: {fleet.base}\nAIKCACHE_URL='{fleet.url()}'")
    return 0 if well else 1


def failover(fleet: Fleet) -> int:
    if not fleet.healthy():
        raise LocalError("Something is missing, see `make redis-status`: a failover by hand is for when all is well.")
    old, new, seconds = fleet.fail_over()
    print(f"{old.name} has handed over to {new.name}; writes waited {seconds:.1f} seconds.")
    return status(fleet)


def down(fleet: Fleet) -> int:
    fleet.remove()
    if fleet.base.exists():
        raise LocalError(f"Ended, but {fleet.base} could not be removed whole: some of it is another user's.")
    print(f"Ended, and removed {fleet.base}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
