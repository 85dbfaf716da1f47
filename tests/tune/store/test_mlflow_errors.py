"""Which errors of a store are worth waiting for, and what becomes of those that come when everything has run."""

import json
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.utils.rest_utils import verify_rest_response
from requests import Response
from requests.exceptions import ConnectionError as ConnectionLost
from requests.exceptions import HTTPError

from cgd.errors import TrackingError
from tune.commands import execute as study_command
from tune.store.delivery import Delivery
from tune.store.errors import StoreAwayError, TooLargeError, UndeliveredError
from tune.store.mlflow_errors import translate_errors
from tune.store.opening import explain_absence
from tune.store.outbox_files import Finish, Open
from tune.store.reading import Reader


def answered(status, text="<html>from a proxy</html>"):
    response = Response()
    response.status_code, response._content = status, text.encode()
    return response


def of_mlflow(status):
    with pytest.raises(MlflowException) as raised:
        verify_rest_response(answered(status), "/api/2.0/mlflow/runs/log-batch")
    return raised.value


def of_artifacts(status):
    return HTTPError(f"{status} Error", response=answered(status))


@pytest.mark.parametrize("made", [of_mlflow, of_artifacts])
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((status, StoreAwayError) for status in (401, 403, 429, 500, 503)),
        *((status, TrackingError) for status in (400, 404, 409)),
        (413, TooLargeError),
    ],
)
def test_a_password_is_waited_for_and_a_wrong_value_is_not(made, status, kind):
    with pytest.raises(TrackingError) as raised, translate_errors("http://server", "write"):
        raise made(status)
    assert type(raised.value) is kind


def test_words_of_a_server_count_as_its_status_does():
    for code, kind in [("PERMISSION_DENIED", StoreAwayError), ("INVALID_PARAMETER_VALUE", TrackingError)]:
        with pytest.raises(TrackingError) as raised, translate_errors("http://server", "write"):
            raise RestException(json.loads(json.dumps({"error_code": code, "message": "no"})))
        assert type(raised.value) is kind


class Calls:
    """A store that notes what it is asked for and takes no model."""

    is_shared, driver = False, "me"

    def __init__(self):
        self.noted = []

    def __getattr__(self, name):
        return lambda *arguments: self.noted.append((name, *arguments))

    def open_run(self, *arguments):
        return "run"

    def log_model(self, *arguments):
        with translate_errors("http://server", "log a model"):
            raise of_artifacts(413)


def test_a_model_too_large_for_the_store_does_not_fail_the_trial(tmp_path):
    (tmp_path / "model").mkdir()
    store = Calls()
    delivery = Delivery(store, "one", tmp_path / "model")
    delivery.apply(Open(kind="trial", name="one", tags={}))
    delivery.apply(Finish(at=2, summary={"test_pcc": 0.5}, per_gene="{}", model_tags={}, dataset={}))
    (tag,) = [call for call in store.noted if call[0] == "set_tag"]
    assert tag[1:3] == ("run", "cgd.no_model")
    assert "413" in tag[3]
    assert "give a database" not in tag[3]
    assert store.noted[-1] == ("finish", "run", {"test_pcc": 0.5}, "{}", {}, 2)


# ---- when everything has run ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (MlflowException("connection refused", TEMPORARILY_UNAVAILABLE), UndeliveredError),
        (ConnectionLost("connection refused"), UndeliveredError),
        (MlflowException("bad value", INVALID_PARAMETER_VALUE), TrackingError),
        (FileNotFoundError("No such artifact"), TrackingError),
    ],
    ids=["server gone", "artifacts gone", "refused", "no such file"],
)
def test_a_reader_of_the_store_that_finds_it_gone_says_so(tmp_path, cause, kind):
    def download(*arguments):
        raise cause

    reader = Reader(f"sqlite:///{tmp_path}/mlflow.db")
    reader.client = SimpleNamespace(download_artifacts=download)
    with pytest.raises(TrackingError) as raised, explain_absence():
        reader.read_artifact("run", "study.json")
    assert type(raised.value) is kind


def test_a_store_lost_during_reports_is_told_and_ends_the_study():
    ended = []

    def conclude(plan, parent, complete):
        if plan.study.name == "second":
            with translate_errors("http://server", "write study.json"):
                raise MlflowException("connection refused", TEMPORARILY_UNAVAILABLE)
        return parent

    names = ("first", "second", "third")
    studies = [SimpleNamespace(study=SimpleNamespace(name=name)) for name in names]
    tracking = SimpleNamespace(end=lambda run_id, status: ended.append((run_id, status)))
    runner = SimpleNamespace(plan=SimpleNamespace(studies=studies), tracking=tracking, conclude=conclude)
    with pytest.raises(UndeliveredError, match=r"connection refused.*Everything ran.*same command writes") as raised:
        study_command._conclude(runner, {name: f"run of {name}" for name in names}, True)
    assert "give a database" not in str(raised.value)
    assert ended == [("run of second", "KILLED"), ("run of third", "KILLED")]
