import json
import math
from pathlib import Path

import pytest

from ablations.study.comparison import name_comparison
from cgd.errors import TrackingError
from cgd.metrics.facts import PUBLISHED_COLUMNS, SCORES
from tune.store.reading import find_comparisons, load_results


def test_everything_comes_back_from_the_store(heldout, store):
    assert heldout.run_id == store.heldout
    assert heldout.study.name == "decoder_training"
    assert heldout.protocol == "heldout_genes"
    assert list(heldout.datasets) == ["tissue_a", "tissue_b"]
    assert heldout.config["ar.decay"] == 0.8
    assert heldout.versions["torch"] == "2.13.0"
    assert [run.dataset for run in heldout.floor_runs] == ["tissue_a", "tissue_b"]


def test_per_gene_table_is_long_and_holds_finished_trials_only(heldout):
    table = heldout.per_gene
    assert list(table) == ["dataset", "level", "seed", "fold", "gene", *SCORES]
    assert len(table) == 7 * 12
    assert table.groupby(["dataset", "level"])["seed"].nunique().to_dict() == {
        ("tissue_a", "frozen"): 2, ("tissue_a", "joint"): 2, ("tissue_b", "frozen"): 2, ("tissue_b", "joint"): 1,
    }  # fmt: skip


def test_an_unscorable_gene_is_nan(heldout):
    unscored = heldout.per_gene[heldout.per_gene["pcc"].isna()]
    assert set(unscored["gene"]) == {"Gene0"}
    assert len(unscored) == 7


def test_trials_carry_status_error_and_costs(heldout):
    trials = heldout.trials.set_index(["dataset", "level", "seed"])
    assert len(trials) == 8
    failed = trials.loc[("tissue_b", "joint", 1)]
    assert failed["status"] == "FAILED"
    assert failed["error"].startswith("boom")
    assert trials.loc[("tissue_a", "frozen", 1), "wall_seconds"] == 11.0
    assert trials.loc[("tissue_a", "frozen", 1), "peak_memory_mb"] == 512.0


def test_floors_have_no_level_and_no_seed(heldout):
    assert list(heldout.floors) == ["dataset", "fold", "method", "gene", *SCORES]
    assert set(heldout.floors["method"]) == {
        "random",
        "gene_mean",
        "mean_pattern",
        "depth",
        "knn",
        "kernel_ridge",
        "ceiling",
    }


def test_published_protocol_adds_the_hidden_entries(published):
    assert set(PUBLISHED_COLUMNS) <= set(published.per_gene)
    assert {"zero_fill", "visible_mean_fill"} <= set(published.floors["method"])
    assert published.per_gene["copied_share"].eq(0.87).all()


def test_a_missing_store_is_an_error_and_is_not_created(tmp_path):
    with pytest.raises(TrackingError, match="no tracking store at"):
        load_results(f"sqlite:///{tmp_path}/none.db", "abc")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_run_is_named(store):
    with pytest.raises(TrackingError, match="cannot read run nosuchrun"):
        load_results(store.uri, "nosuchrun")


def test_a_trial_is_not_a_study(store):
    with pytest.raises(TrackingError, match=r"is not a study \(cgd.kind is 'trial'\)"):
        load_results(store.uri, store.trial)


@pytest.fixture
def rewrite(store, tmp_path):
    """A new parent run whose study.json is the real one after `change`."""
    from mlflow import MlflowClient

    client = MlflowClient(store.uri)
    experiment = client.get_run(store.heldout).info.experiment_id

    def build(change):
        content = json.loads(Path(client.download_artifacts(store.heldout, "study.json", str(tmp_path))).read_text())
        content = change(content) or content
        run_id = client.create_run(experiment, tags={"cgd.kind": "study"}).info.run_id
        client.log_dict(run_id, content, "study.json")
        return lambda: load_results(store.uri, run_id)

    return build


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("floors") and None, "study.json of run .* lacks floors"),
        (lambda c: ["not", "a", "study"], "does not fit: Input should be an object"),
        (lambda c: c["study"].update(levels=[]), "study.json of run .*: its study: .*at least two 'levels'"),
        (lambda c: c["trials"][0].pop("level") and None, "lacks trials.0.level; run the study again"),
        (lambda c: c["trials"][0].update(seed="first"), "does not fit at trials.0.seed: .*integer, .*found 'first'"),
        (lambda c: c["trials"][0].update(run_id="gone"), "cannot read run gone"),
        (lambda c: c["trials"][0].update(level="frosen"), "unknown level 'frosen'; did you mean 'frozen'"),
        (lambda c: c["trials"][0].update(dataset="tissue"), "unknown dataset 'tissue'"),
        (lambda c: c["trials"][0].update(run_id=c["floors"][0]["run_id"]), "lists gene 'Gene0' twice"),
        (lambda c: c["floors"][0].update(run_id=c["trials"][0]["run_id"]), "not the expected table.*method"),
        (lambda c: c.update(protocol="published"), "not the expected table.*hidden_pcc"),
        (lambda c: c["floors"].append({"run_id": c["trials"][-1]["run_id"], "dataset": "tissue_a", "fold": 1}),
         "no readable artifact 'per_gene.json'"),
    ],
)  # fmt: skip
def test_a_store_that_does_not_fit_is_refused(rewrite, change, message):
    with pytest.raises(TrackingError, match=message):
        rewrite(change)()


def test_a_parent_without_its_artifact_is_refused(store):
    from mlflow import MlflowClient

    client = MlflowClient(store.uri)
    experiment = client.get_run(store.heldout).info.experiment_id
    run_id = client.create_run(experiment, tags={"cgd.kind": "study"}).info.run_id
    with pytest.raises(TrackingError, match=r"no readable artifact 'study\.json'"):
        load_results(store.uri, run_id)


def test_the_run_is_believed_where_the_study_list_is_older(rewrite):
    found = rewrite(lambda c: c["trials"][0].update(status="RUNNING"))()
    assert found.trials.loc[0, "status"] == "FINISHED"


def test_a_trial_that_never_started_is_kept_without_a_run(rewrite):
    found = rewrite(lambda c: c["trials"][0].update(run_id=None, status=None))()
    assert found.trials.loc[0, "status"] is None
    assert len(found.per_gene) == 6 * 12


def test_trials_say_when_and_on_what_they_ran(heldout):
    trials = heldout.trials
    assert (trials["ended"] >= trials["started"]).all()
    assert trials["started"].min() > 1_600_000_000  # seconds, not milliseconds
    assert trials["started"].max() < 10_000_000_000
    assert set(trials["device"]) == {"cpu"}
    assert set(trials["n_threads"]) == {2.0}
    assert set(trials["n_workers"]) == {3.0}


def test_an_older_store_lacks_what_came_later_and_is_read(heldout):
    assert heldout.code_version == ""
    assert heldout.forecast is None
    assert heldout.older.empty
    assert "pcc" in heldout.older


def test_code_version_older_results_and_forecast_are_read(rewrite):
    older = {"dataset": "tissue_a", "level": "joint", "seed": 0, "fold": 0, "code_version": "0.0.9", "run_id": "x"}
    older |= {"pcc": 0.2, "when": "2026-01-02"}
    trials = [{"fingerprint": "f", "seconds": 2.0, "memory_mb": 3.0, "checkpoints_mb": 4.0, "kept_mb": 5.0}]
    forecast = {"wall_seconds": 3.0, "n_concurrent": 1, "launch_seconds": 1.0, "trials": trials, "made": "2026-01-02"}
    found = rewrite(lambda c: c.update(code_version="1.0", older=[older], forecast=forecast))()
    assert found.code_version == "1.0"
    assert forecast.items() <= found.forecast.model_dump(mode="json").items()
    (row,) = found.older.to_dict("records")
    assert math.isnan(row.pop("crps"))  # which that version did not record
    assert row == older


def test_older_results_that_do_not_fit_are_refused(rewrite):
    with pytest.raises(TrackingError, match=r"study\.json of run .* lacks older\.0\.level, older\.0\.seed"):
        rewrite(lambda c: c.update(older=[{"dataset": "tissue_a"}]))()


def test_the_newest_comparison_is_over_and_has_its_study(store, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.create_experiment("causalged", artifact_location=f"file://{tmp_path}/artifacts")
    tags = {"cgd.kind": "study", "cgd.study": name_comparison("published")}

    def run(end_time, has_study=True):
        run_id = client.create_run(experiment, tags=tags, start_time=1).info.run_id
        if has_study:
            client.log_dict(run_id, {}, "study.json")
        if end_time:
            client.set_terminated(run_id, end_time=end_time)
        return run_id

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run(end_time=None)
    run(end_time=40, has_study=False)
    with pytest.raises(TrackingError, match="no comparison in"):
        find_comparisons(uri)
    run(end_time=10)
    newest = run(end_time=30)
    run(end_time=20)
    assert find_comparisons(uri) == [newest]


@pytest.mark.parametrize("read", [find_comparisons, lambda uri: load_results(uri, "abc")])
def test_a_store_that_is_none_is_named_without_its_password(read, tmp_path):
    (tmp_path / "notes.db").write_text("no database, but a text of more than a hundred characters " * 9)
    with pytest.raises(TrackingError, match=r"notes\.db: .*; give a database such as"):
        read(f"sqlite:///{tmp_path}/notes.db")
    with pytest.raises(TrackingError, match=r"nonsense://me:\*\*\*@host/x") as refused:
        read("nonsense://me:secret@host/x")
    assert "secret" not in str(refused.value)
