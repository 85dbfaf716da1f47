"""A search's journal opens in optuna-dashboard, where that is installed."""

import json
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import optuna
import pytest

from tune.search.sampler import SAMPLE
from tune.search.storage import open_journal

optuna_dashboard = pytest.importorskip("optuna_dashboard", reason="install the extra [dashboard]")


class Silent(WSGIRequestHandler):
    """Says nothing of each request."""

    def log_message(self, *args):
        pass


def test_the_dashboard_shows_the_study_and_its_trials(tmp_path):
    storage = open_journal(tmp_path / "s.journal")
    study = optuna.create_study(storage=storage, study_name="mine", direction="maximize")
    for sample in range(3):
        study.enqueue_trial({}, user_attrs={SAMPLE: sample})
        trial = study.ask()
        trial.report(trial.suggest_float("x", 0.0, 1.0), step=20)
        study.tell(trial, 0.5)
    server = make_server(
        "127.0.0.1", 0, optuna_dashboard.wsgi(open_journal(tmp_path / "s.journal")), handler_class=Silent
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/api/studies"
        with urllib.request.urlopen(address, timeout=30) as answer:
            studies = json.load(answer)["study_summaries"]
        assert [s["study_name"] for s in studies] == ["mine"]
        with urllib.request.urlopen(f"{address}/{studies[0]['study_id']}?after=0", timeout=30) as answer:
            assert len(json.load(answer)["trials"]) == 3
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
