"""One run per key on a server that several commands write to: MLflow has no lock, and creates whatever it is asked to.

A new run is at first a claim: it bears `cgd.claim` and none of the tags by which runs are found. Whoever then sees no
other claim and no run of that key tags its own and has won; whoever sees one takes its own away and begins anew after
a random while. Of two commands the later to claim sees the earlier, so that both never win; where each saw the other,
both give way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

CLAIM, DRIVER = "cgd.claim", "cgd.driver"
_STALE_SECONDS = 30.0  # a claim seen for so long is of a command that was killed


@dataclass
class Claims:
    """Runs made by one command on a shared server.

    Attributes
    ----------
    client
        An MLflow client.
    experiment_id
        Where the runs are.
    driver
        Names the command's output folder.
    find
        Run id of a key that has a run, else None.
    label
        Gives a run tags.
    """

    client: Any
    experiment_id: str
    driver: str
    find: Callable[[str], str | None]
    label: Callable[[str, Mapping[str, str]], None]

    def run_of(self, key: str, name: str, tags: Mapping[str, str], start_time: int | None) -> str:
        """The run of a key: another's, or one made now with these tags."""
        first_seen: dict[str, float] = {}
        while True:
            found = self.find(key)
            own = self._claims(key, own=True)  # one is there where the answer to its creation was lost
            if found:
                self._remove(own)
                return found
            others = self._claims(key, own=False)
            if not others:
                mine = own[0] if own else self._claim(key, name, start_time)
                self._remove(own[1:])
                if not self._claims(key, own=False) and not self.find(key):
                    self.label(mine, tags)
                    return mine
                own = [mine]
            self._remove(own)
            self._remove([run for run in others if self._is_stale(run, first_seen)])
            time.sleep(random.uniform(0.05, 0.5))

    def _claim(self, key: str, name: str, start_time: int | None) -> str:
        tags = {CLAIM: key, DRIVER: self.driver}
        made = self.client.create_run(self.experiment_id, start_time=start_time, run_name=name, tags=tags)
        return str(made.info.run_id)

    def _claims(self, key: str, own: bool) -> list[str]:
        """Claims of a key that are not yet runs of it, of this driver or of others."""
        query = f"tags.`{CLAIM}` = '{key}' AND tags.`{DRIVER}` {'=' if own else '!='} '{self.driver}'"
        found = self.client.search_runs([self.experiment_id], query)
        return [run.info.run_id for run in found if "cgd.fingerprint" not in run.data.tags]

    def _is_stale(self, run_id: str, first_seen: dict[str, float]) -> bool:
        now = time.monotonic()
        return now - first_seen.setdefault(run_id, now) > _STALE_SECONDS

    def _remove(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            self.client.delete_run(run_id)
