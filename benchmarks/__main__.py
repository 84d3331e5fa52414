"""The command line: `python -m benchmarks`, from the repository's root."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from types import FrameType

from . import machine, report
from .contenders import CLIENTS, FLASK_SERVERS, SERVERS, WSGI_SERVERS, Contender
from .results import Results, VoidRunError
from .runner import Plan, compare
from .scenarios import SCENARIOS, Scenario
from .settings import Settings

_EVERYBODY = SERVERS + WSGI_SERVERS + FLASK_SERVERS + CLIENTS  # the TLS servers have no names of their own
_BUSY = 0.3  # load average from which on the machine is not ours alone


def main() -> int:
    """Returns the exit status: 0 if every run counts, 1 if one is void or none could be, 130 on Ctrl-C."""
    arguments = _parse()
    settings = Settings(arguments.rounds, arguments.seconds, arguments.mib, arguments.connections)
    signal.signal(signal.SIGTERM, _interrupt)
    ours = machine.about()
    cores = machine.Cores.choose()
    os.sched_setaffinity(0, {cores.load})  # ours and our load generators'; a contender is moved as it starts
    _say_what_disturbs(cores)
    scenarios = _possible(arguments.only, settings, machine.raise_open_files())

    done: list[tuple[Scenario, Results]] = []
    versions: dict[Contender, str] = {}
    try:
        plan = _plan(scenarios, arguments.contenders, cores.contender, versions)
        if not plan:
            print("nothing to run")
            return 1
        for scenario, results in compare(plan, settings, cores.contender):
            done.append((scenario, results))
            print(f"\n{report.table(scenario, results)}", flush=True)
        status = 1 if any(results.voids() for _, results in done) else 0
    except KeyboardInterrupt:
        print("\ninterrupted: what follows is not the whole run")
        status = 130
    if done:
        print(f"\n{report.summary(done)}")
    if arguments.json is not None:
        contenders = {str(contender): about for contender, about in versions.items()}
        whole = {"machine": ours, "settings": asdict(settings), "contenders": contenders}
        arguments.json.write_text(json.dumps({**whole, "results": report.as_json(done)}, indent=2) + "\n")
    return status


def _parse() -> argparse.Namespace:
    defaults = Settings()
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Servers and clients, side by side.")
    for option, names in (
        ("--only", [scenario.name for scenario in SCENARIOS]),
        ("--contenders", list(dict.fromkeys(contender.name for contender in _EVERYBODY))),
    ):
        known = ", ".join(names)
        parser.add_argument(option, nargs="+", metavar="NAME", choices=names, default=names, help=known)
    for option, default, meaning in (
        ("--rounds", defaults.rounds, "how often each contender runs in each scenario"),
        ("--seconds", defaults.seconds, "length of one timing"),
        ("--mib", defaults.mib, "size of the large upload and downloads; 1024 for 1 GiB"),
        ("--connections", defaults.connections, "idle or parked at a time"),
    ):
        parser.add_argument(option, type=_positive, default=default, help=f"{meaning} (default {default})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save every figure of every round")
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """SIGTERM ends us as Ctrl-C does: what we started is stopped, and what is done is reported."""
    raise KeyboardInterrupt


def _say_what_disturbs(cores: machine.Cores) -> None:
    if cores.contender == cores.load:
        print("one core only: contender and load generator share it, and the figures mean little")
    if (load := os.getloadavg()[0]) > _BUSY:
        print(f"load average {load:.1f} before we begin: something else runs, take the figures with care")


def _possible(names: list[str], settings: Settings, open_files: int) -> list[Scenario]:
    """Those scenarios that can run here; says why for each of the others."""
    possible = []
    for scenario in (scenario for scenario in SCENARIOS if scenario.name in names):
        if missing := machine.missing(scenario.programs):
            print(f"{scenario.name}: skipped, {' and '.join(missing)} not installed")
        elif scenario.open_files(settings) > open_files:
            needed = f"needs {scenario.open_files(settings)} open files and the hard limit is {open_files}"
            print(f"{scenario.name}: skipped, {needed}; take fewer --connections or raise `ulimit -Hn`")
        else:
            possible.append(scenario)
    return possible


def _plan(scenarios: list[Scenario], names: list[str], core: int, versions: dict[Contender, str]) -> Plan:
    """The scenarios, each with those of its contenders that start here; says why for each of the others."""
    plan = []
    greeted: set[Contender] = set()
    for scenario in scenarios:
        wanted = [contender for contender in scenario.contenders if contender.name in names]
        for contender in wanted:
            if contender not in greeted:
                greeted.add(contender)
                _greet(scenario, contender, core, versions)
        if present := [contender for contender in wanted if contender in versions]:
            plan.append((scenario, present))
        else:
            print(f"{scenario.name}: skipped, no contender for it")
    bases = [(scenario.baseline, contender.role) for scenario, present in plan for contender in present]
    for baseline, role in dict.fromkeys(bases):
        if not any(contender.name == baseline and contender.role == role for contender in versions):
            print(f"without {baseline} as {role} there are no ratios")
    return plan


def _greet(scenario: Scenario, contender: Contender, core: int, versions: dict[Contender, str]) -> None:
    try:
        versions[contender] = scenario.greet(contender, core)
    except VoidRunError as void:
        print(f"{contender}: skipped, {void}")
    else:
        print(f"{contender}: {versions[contender]}")


if __name__ == "__main__":
    sys.exit(main())
