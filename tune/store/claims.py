"""One run per key on a server that several commands write to: MLflow has no lock, and creates whatever it is asked to.

A new run is at first a claim: it bears `cgd.claim` and none of the tags by which runs are found. Whoever then sees no
other claim and no run of that key tags its own and has won; whoever sees one takes its own away and begins again after
a random while. Of two commands the later to claim sees the earlier, so that both never win; where each saw the other,
both give way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tune.store.reading import DRIVER, Reader

CLAIM = "cgd.claim"
_STALE_SECONDS = 30.0  # a claim seen for so long is of a command that was killed


@dataclass
class Claims:
    """Runs made by one command, which `driver` names, on a shared server; `label` gives a run tags."""

    store: Reader
    driver: str
    label: Callable[[str, Mapping[str, str]], None]

    def claim_run(self, key: str, name: str, tags: Mapping[str, str], start_time: int | None) -> str:
        """The run of a key: another's, or one made now with these tags."""
        first_seen: dict[str, float] = {}
        while True:
            found = self.store.find(key)
            own = self._find_claims(key, own=True)  # one is there where the answer to its creation was lost
            if found:
                self._remove(own)
                return found.run_id
            others = self._find_claims(key, own=False)
            if not others:
                mine = own[0] if own else self._make_claim(key, name, start_time)
                self._remove(own[1:])
                if not self._find_claims(key, own=False) and not self.store.find(key):
                    self.label(mine, tags)
                    return mine
                own = [mine]
            self._remove(own)
            self._remove([run for run in others if self._is_stale(run, first_seen)])
            time.sleep(random.uniform(0.05, 0.5))

    def _make_claim(self, key: str, name: str, start_time: int | None) -> str:
        tags = {CLAIM: key, DRIVER: self.driver}
        made = self.store.client.create_run(self.store.experiment_id, start_time=start_time, run_name=name, tags=tags)
        return str(made.info.run_id)

    def _find_claims(self, key: str, own: bool) -> list[str]:
        """Claims of a key that are not yet runs of it, of this driver or of others."""
        query = f"tags.`{CLAIM}` = '{key}' AND tags.`{DRIVER}` {'=' if own else '!='} '{self.driver}'"
        found = self.store.client.search_runs([self.store.experiment_id], query)
        return [run.info.run_id for run in found if "cgd.fingerprint" not in run.data.tags]

    def _is_stale(self, run_id: str, first_seen: dict[str, float]) -> bool:
        now = time.monotonic()
        return now - first_seen.setdefault(run_id, now) > _STALE_SECONDS

    def _remove(self, run_ids: list[str]) -> None:
        for run_id in run_ids:
            self.store.client.delete_run(run_id)
