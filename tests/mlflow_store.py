"""Reading back what a command wrote."""

import re
from dataclasses import dataclass
from pathlib import Path

from mlflow import MlflowClient

_MACHINE = re.compile("seconds|memory|^system/")  # metrics of the machine rather than of the method


@dataclass
class Store:
    """The MLflow store of an output folder, or the one at `uri`."""

    output: Path
    uri: str = ""

    def __post_init__(self):
        self.client = MlflowClient(self.uri or f"sqlite:///{self.output / 'mlflow.db'}")
        self.experiment_id = self.client.get_experiment_by_name("causalged").experiment_id

    def runs(self, kind):
        return list(self.client.search_runs([self.experiment_id], f"tags.`cgd.kind` = '{kind}'"))

    def history(self, run, key):
        return sorted((m.step, m.value) for m in self.client.get_metric_history(run.info.run_id, key))

    def text(self, run, artifact):
        return Path(self.client.download_artifacts(run.info.run_id, artifact)).read_text()

    def contents(self):
        """Fingerprint -> everything of a trial that must not depend on how it was run."""
        found = {}
        for run in self.runs("trial"):
            metrics = {k: v for k, v in run.data.metrics.items() if not _MACHINE.search(k)}
            content = (run.info.status, self.history(run, "train_loss"), metrics, self.text(run, "per_gene.json"))
            found.setdefault(run.data.tags["cgd.fingerprint"], []).append(content)
        return found
