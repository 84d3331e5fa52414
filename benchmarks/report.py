"""Results as text tables and as JSON."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .results import Metric, Results, VoidRunError
from .scenarios import Scenario

__all__ = ["as_json", "summary", "table"]

_NOTHING = "-"

Done = Sequence[tuple[Scenario, Results]]


def table(scenario: Scenario, results: Results) -> str:
    """One scenario: a row for each contender, medians and ratios to the baseline; below it the void runs."""
    rows = [_heading(scenario)]
    for contender in results.runs:
        row = [contender]
        for metric in scenario.metrics:
            row.append(_number(results.median(contender, metric), metric.digits))
            if metric.compared:
                row.append(_ratio(results, contender, metric, rounds=metric is scenario.metrics[0]))
        rows.append(row)
    voids = [f"  VOID  {contender}, round {number}: {void}" for contender, number, void in results.voids()]
    return "\n".join([f"{scenario.name}: {scenario.title}", *_align(rows), *voids])


def summary(done: Done) -> str:
    """All scenarios by their headlines: a row for each, a column for each contender; a table for each company."""
    lines = []
    for baseline, compared in itertools.groupby(done, lambda one: one[1].baseline):
        lines.append(f"Summary, in brackets the ratio to {baseline} (median of the rounds' ratios)")
        for contenders, group in itertools.groupby(compared, lambda one: list(one[1].runs)):
            rows = [["scenario", "median of", *contenders]]
            rows += [_headline(scenario, results) for scenario, results in group]
            lines += _align(rows, left=2)
    return "\n".join(lines)


def as_json(done: Done) -> list[dict[str, object]]:
    """Every figure of every round, for `json.dump`."""
    return [
        {
            "scenario": scenario.name,
            "title": scenario.title,
            "contenders": {contender: _contender(scenario, results, contender) for contender in results.runs},
        }
        for scenario, results in done
    ]


def _contender(scenario: Scenario, results: Results, contender: str) -> dict[str, object]:
    return {
        "rounds": [
            {"void": str(run)}
            if isinstance(run, VoidRunError)
            else {metric.name: run[metric] for metric in scenario.metrics}
            for run in results.runs[contender]
        ],
        "median": {metric.name: results.median(contender, metric) for metric in scenario.metrics},
        f"ratio to {results.baseline}": {
            metric.name: {
                "rounds": results.ratios(contender, metric),
                "median": results.ratio(contender, metric),
            }
            for metric in scenario.metrics
            if metric.compared
        },
    }


def _heading(scenario: Scenario) -> list[str]:
    heading = [""]
    for metric in scenario.metrics:
        heading.append(metric.name)
        if metric.compared:
            heading.append(f"/ {scenario.baseline}")
    return heading


def _headline(scenario: Scenario, results: Results) -> list[str]:
    metric = scenario.metrics[0]
    better = "" if metric.higher_is_better else ", less is better"
    row = [scenario.name, f"{metric.name}{better}"]
    for contender in results.runs:
        value = _number(results.median(contender, metric), metric.digits)
        ratio = results.ratio(contender, metric)
        bracket = "" if ratio is None else f" ({ratio:.2f})"
        voids = sum(name == contender for name, _, _ in results.voids())
        row.append(value + bracket + (f" {voids} VOID" if voids else ""))
    return row


def _ratio(results: Results, contender: str, metric: Metric, rounds: bool) -> str:
    ratio = results.ratio(contender, metric)
    if ratio is None:
        return _NOTHING
    each = " ".join(_number(one, 2) for one in results.ratios(contender, metric))
    return f"{ratio:.2f} ({each})" if rounds else f"{ratio:.2f}"


def _number(value: float | None, digits: int) -> str:
    return _NOTHING if value is None else f"{value:,.{digits}f}"


def _align(rows: list[list[str]], left: int = 1) -> list[str]:
    """Columns of equal width, the first `left` ones flush left, figures flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:left], widths[:left], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[left:], widths[left:], strict=True)]
        lines.append("  " + "  ".join(cells))
    return lines
