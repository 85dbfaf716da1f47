"""A user's mistake: one clear message, exit code 2, no traceback, nothing half-written."""

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sp
from mlflow_store import Store

from cgd.errors import TrackingError
from tune.commands.ablation import main
from tune.store.tracking import Tracking


def write_pair(folder, st_genes=("a", "b"), sc_genes=("a", "b"), st=None, spatial=True):
    rng = np.random.default_rng(0)
    folder.mkdir()
    st = rng.poisson(2.0, (20, len(st_genes))) if st is None else st
    spots = ad.AnnData(sp.csr_matrix(st.astype(np.float32)))
    spots.var_names = list(st_genes)
    if spatial:
        spots.obsm["spatial"] = rng.random((20, 2))
    cells = ad.AnnData(sp.csr_matrix(rng.poisson(2.0, (30, len(sc_genes))).astype(np.float32)))
    cells.var_names = list(sc_genes)
    spots.write_h5ad(folder / "st.h5ad")
    cells.write_h5ad(folder / "sc.h5ad")
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a study with --study: ar_decay"),
        (["--study", "ar_deca"], "did you mean 'ar_decay'?"),
        (["--study", "depth", "--dataset", "simulatd"], "did you mean 'simulated'?"),
        (["--study", "depth", "--dataset", "no/such/folder"], "no folder at no/such/folder"),
        (["--study", "depth", "--dataset", "a.h5ad,b.h5ad"], "no file at a.h5ad"),
        (["--study", "depth", "--set", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["--study", "depth", "--set", "train.epochs=many"], "valid integer"),
        (["--study", "depth", "--set", "train.epochs"], "expected PATH=VALUE"),
        (["--study", "depth", "--set", "ar.decay=2"], "less than or equal to 1, found 2"),
        (["--study", "depth", "--config", "missing.yaml"], "no configuration file at missing.yaml"),
        (["--study", "depth", "--output", "/dev/null/x"], "choose another folder with --output"),
        (["--study", "depth", "--folds", "300"], "too few for 300 fold(s)"),
        (["--study", "depth", "--tracking-uri", "nonsense://x"], "--tracking-uri"),
        (["--study", "depth", "--address", "127.0.0.1:1"], "omit --address"),
        (["--study", "depth", "--address", "somewhere"], "expected local, auto or HOST:PORT"),
    ],
)
def test_mistakes_in_the_command(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CGD_DATA_DIR", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "outputs").exists() or "--tracking-uri" in arguments
    assert len(error.splitlines()[-1]) < 700


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sc_genes": ("x", "y")}, "no gene is measured in both modalities"),
        ({"spatial": False}, "expected coordinates in obsm['spatial']"),
        ({"st": np.full((20, 2), -1)}, "40 negative values"),
        ({"st": np.full((20, 2), np.nan)}, "40 non-finite values"),
        ({"st": np.full((20, 2), 0.5)}, "already normalised"),
        ({"st": np.zeros((20, 2))}, "all 20 rows of X are empty"),
        ({}, "2 genes are too few"),
    ],
)
def test_data_that_cannot_be_used(options, message, tmp_path, capsys):
    folder = write_pair(tmp_path / "pair", **options)
    output = tmp_path / "out"
    assert main(["--study", "depth", "--dataset", str(folder), "--output", str(output)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: pair") or "genes are too few" in error
    assert message in error
    assert not output.exists()


def test_wrong_layouts_name_what_the_folder_holds(tmp_path, capsys):
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "counts.csv").write_text("a,b\n1,2\n")
    assert main(["--study", "depth", "--dataset", str(folder)]) == 2
    assert "it holds: counts.csv" in capsys.readouterr().err
    (folder / "st.h5ad").write_text("not hdf5")
    (folder / "sc.h5ad").write_text("not hdf5")
    assert main(["--study", "depth", "--dataset", str(folder)]) == 2
    assert "st.h5ad is not a readable h5ad file" in capsys.readouterr().err


def test_a_file_where_the_output_should_go(tmp_path, capsys):
    target = tmp_path / "out"
    target.write_text("precious")
    assert main(["--study", "depth", "--output", str(target)]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert target.read_text() == "precious"


def test_a_store_that_fails_during_a_study_is_named_and_all_ends(tiny_config, tmp_path, capsys, monkeypatch):
    def full(self, run_id, epochs):
        if epochs:
            raise TrackingError("cannot log metrics in the tracking store: no space left on device")

    monkeypatch.setattr(Tracking, "log_epochs", full)
    output = tmp_path / "out"
    assert main(["--study", "depth", "--config", str(tiny_config), "--output", str(output)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: cannot log metrics in the tracking store: no space left on device (refused; what")
    assert "/outbox/refused/" in error
    runs = [run for kind in ("study", "trial") for run in Store(output).runs(kind)]
    assert {run.info.status for run in runs} == {"KILLED"}
    monkeypatch.undo()
    assert main(["--study", "depth", "--config", str(tiny_config), "--output", str(output), "--resume"]) == 0
    assert {run.info.status for kind in ("study", "trial") for run in Store(output).runs(kind)} == {"FINISHED"}


def test_list_names_studies_and_data_sets(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("ar_decay", "decoder_training", "depth", "encoder_variation", "timestep_sampling", "simulated"):
        assert name in listed


def test_audit_reports_and_passes(tiny_config, capsys):
    assert main(["--audit", "--config", str(tiny_config)]) == 0
    assert "bit-identical with the truth replaced by noise" in capsys.readouterr().out
