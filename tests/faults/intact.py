"""What must hold after a fault: nothing lost, nothing twice, nothing changed, nothing trained again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from faulty_study import FaultyStudy, Strike
from mlflow_store import Store


@dataclass
class Outcome:
    """A row of the table of docs/reliability.md: what was done, and what came of it as the test saw it.

    `lost`, `duplicated` and `changed` count trials in comparison with an undisturbed study.
    """

    fault: str
    struck: str
    running: str = ""
    resumed_from: str = ""
    lost: int | None = None
    duplicated: int | None = None
    changed: int | None = None
    seconds_lost: float | None = None
    ending: str = ""

    def to_row(self) -> dict[str, Any]:
        return asdict(self)

    def resumed(self, strike: Strike, epoch: int | None = None) -> None:
        """Check that the trial went on from `epoch` (its newest checkpoint, when omitted), and note it.

        The witness is the duration of each epoch, to the last digit, which a checkpoint carries in its history: an
        epoch that is trained again has another one.
        """
        expected = strike.before.epoch if epoch is None else epoch
        before, after = strike.before.history, strike.after.history
        kept = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False))))
        assert [m["epoch"] for m in after] == list(range(1, strike.after.epoch + 1))
        assert len(after) > expected, "nothing was trained since"
        assert kept == expected, f"epochs 1 to {kept} were not trained again, expected {expected}"
        self.resumed_from = f"{kept} of {strike.before.epoch}"
        self.seconds_lost = strike.seconds

    def intact(self, study: FaultyStudy, reference: Path, store: Store | None = None) -> None:
        """Check the store of a struck study against that of an undisturbed one, by fingerprint and bit for bit."""
        store = store or Store(study.output)
        expected, found = Store(reference).contents(), store.contents()
        self.lost = len(expected.keys() - found.keys())
        self.duplicated = sum(len(runs) - 1 for runs in found.values())
        self.changed = sum(found[key][0] != expected[key][0] for key in expected.keys() & found.keys())
        assert (self.lost, self.duplicated, self.changed) == (0, 0, 0)
        assert found == expected  # status, the curve with each epoch once, final metrics, every gene
        left = [run.info.run_name for kind in ("trial", "study", "floors") for run in store.runs(kind) if _is_open(run)]
        assert not left, f"still RUNNING: {left}"
        assert [run.info.status for run in store.runs("study")] == ["FINISHED"]


def largest(study: FaultyStudy, tag: str) -> float:
    """The largest value of a tag that counts something among the trials of a study; 0 where no run has it."""
    return max(float(run.data.tags.get(tag, 0)) for run in Store(study.output).runs("trial"))


def _is_open(run: Any) -> bool:
    return run.info.status == "RUNNING"
