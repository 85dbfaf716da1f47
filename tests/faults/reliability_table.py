"""Run the fault tests and write what they saw into docs/reliability.md: `make reliability`.

The document is left as it is unless every fault test passes.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parents[1] / "docs" / "reliability.md"
BEGIN, END = "<!-- outcomes: begin -->", "<!-- outcomes: end -->"
VARIABLE = "CGD_FAULT_OUTCOMES"
COLUMNS = {
    "fault": "fault",
    "struck": "what was done, and when",
    "running": "the running trial",
    "resumed_from": "went on from its epoch",
    "lost": "runs lost",
    "duplicated": "twice",
    "changed": "metrics changed",
    "seconds_lost": "s to the next epoch",
    "ending": "the command",
}


def run_faults(outcomes: Path) -> int:
    """Run the tests, one at a time; pytest's exit code."""
    command = [sys.executable, "-m", "pytest", "-m", "slow", "-p", "no:cacheprovider", str(HERE)]
    return subprocess.run(command, cwd=HERE.parents[1], env={**os.environ, VARIABLE: str(outcomes)}).returncode


def render(rows: list[dict[str, Any]], when: datetime) -> str:
    """The table in Markdown, with when and on what it was made."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("ray", "mlflow", "torch"))
    head = f"{when:%Y-%m-%d}, Python {platform.python_version()}, {packages}, {os.cpu_count()} CPU cores."
    lines = [head, "", f"| {' | '.join(COLUMNS.values())} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| {' | '.join(_cell(row[key]) for key in COLUMNS)} |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def write_between(text: str, document: str) -> str:
    """`document` with `text` between its two markers."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected {BEGIN} and {END} in {DOCUMENT}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main() -> int:
    """Run, render, write; 1 where a fault was not survived."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = Path(folder) / "outcomes.jsonl"
        if run_faults(outcomes):
            print(f"a fault test failed: {DOCUMENT} is left as it is", file=sys.stderr)
            return 1
        rows = [json.loads(line) for line in outcomes.read_text().splitlines()]
    DOCUMENT.write_text(write_between(render(rows, datetime.now(UTC)), DOCUMENT.read_text()))
    print(f"{len(rows)} outcomes written to {DOCUMENT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
