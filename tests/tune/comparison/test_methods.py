"""Choosing methods, and the mistakes one can make with them: found before anything runs, exit code 2."""

import io
import sys
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

import cgd.baselines
from cgd.baselines import METHODS, Entry, discover_methods, find_method
from cgd.data.catalog import load_dataset
from cgd.errors import ConfigError, DataError
from tune.commands.comparison import main
from tune.comparison.export import export_splits
from tune.comparison.methods import choose_methods, parse_brought
from tune.comparison.results_file import replace_section, write_results
from tune.terminal.board import Board, draw
from tune.trials.plan import Planner

GOOD = "class Good:\n    def fit(self, visible, seed): ...\n    def predict(self, genes): ...\n"


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Modules of a user: one that works, one that cannot be imported and one that needs what is not there."""
    (tmp_path / "own_good.py").write_text(GOOD)
    (tmp_path / "own_broken.py").write_text("1 / 0\n")
    (tmp_path / "own_needy.py").write_text("import no_such_package_here\n" + GOOD)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("own_good", "own_broken", "own_needy"):
        sys.modules.pop(name, None)


@pytest.fixture
def installed(own, monkeypatch):
    """Two entry points, of which one is broken, and a registry with one method that lacks its package."""
    points = [EntryPoint("good", "own_good:Good", cgd.baselines.GROUP)]
    points.append(EntryPoint("broken", "own_broken:Bad", cgd.baselines.GROUP))
    points.append(EntryPoint("causalged", "own_good:Good", cgd.baselines.GROUP))
    monkeypatch.setattr(cgd.baselines, "entry_points", lambda group: points)
    for name in list(METHODS):
        monkeypatch.delitem(METHODS, name)
    monkeypatch.setitem(METHODS, "needy", Entry("own_needy:Good", "Needy", package="no_such_package_here"))
    return own


def test_an_installed_method_is_found_and_takes_no_taken_name(installed):
    assert find_method("good").home == "own_good:Good"
    assert set(discover_methods()) == {"good", "broken"}
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        find_method("goood")


@pytest.fixture
def malformed_points(installed):
    """Entry points that name no class, among those that do."""
    points = cgd.baselines.entry_points(group=cgd.baselines.GROUP)
    for name, value in (("spaces", "own good"), ("bare", "own_good"), ("empty", ""), ("deep", "own_good:A.B")):
        points.append(EntryPoint(name, value, cgd.baselines.GROUP))


def test_an_entry_point_without_a_class_is_skipped_with_a_line(malformed_points, capsys):
    assert set(discover_methods()) == {"good", "broken"}
    assert main(["--list"]) == 0
    with pytest.raises(ConfigError, match="did you mean 'good'"):
        find_method("goood")
    notes = choose_methods(["all"], [], skip_missing=True)[1]
    assert "spaces is left out: its entry point is 'own good', expected MODULE:CLASS" in notes
    assert sum("expected MODULE:CLASS" in note for note in notes) == 4


def test_a_package_with_unreadable_entry_points_hides_no_other(own, monkeypatch):
    for name, text in (("bad", "[causalged_ray.methods]\nno equals sign\n"), ("fine", "")):
        folder = own / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(text or f"[{cgd.baselines.GROUP}]\ngood = own_good:Good\n")
    assert discover_methods()["good"].note == "Installed beside this project, of the package fine 1.0."
    assert cgd.baselines.list_unusable() == ["the entry points of the package bad cannot be read (TypeError)"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("raise SystemExit(3)", "cannot be made: SystemExit: 3"),
        ("class Odd:\n    def fit(self, visible, seed): ...", "has no predict; a method has fit"),
        ("Odd = dict", "has no fit and no predict"),
    ],
)
def test_what_is_no_method_is_refused(source, message, own):
    (own / "own_odd.py").write_text(source)
    sys.modules.pop("own_odd", None)
    with pytest.raises(ConfigError, match=message):
        choose_methods(["own_odd:Odd"], [], skip_missing=False)


def test_a_broken_installed_method_does_not_break_the_others(installed):
    chosen, notes = choose_methods(["all"], [], skip_missing=True)
    assert [one.name for one in chosen] == ["good"]
    assert "Needy is left out: Needy needs the package 'no_such_package_here'" in notes[0]
    assert "broken is left out" in notes[1]
    assert "ZeroDivisionError" in notes[1]


def test_a_missing_package_is_an_error_that_names_the_extra(installed):
    with pytest.raises(ConfigError, match=r"pip install 'causalged-ray\[baselines\]'; or leave it out with --skip-mis"):
        choose_methods(["all"], [], skip_missing=False)


def test_a_broken_method_that_was_named_is_an_error(installed):
    with pytest.raises(ConfigError, match=r"own_broken:Bad\) cannot be made: ZeroDivisionError"):
        choose_methods(["broken"], [], skip_missing=False)


def test_names_come_in_lists_and_once_each(installed):
    chosen, _ = choose_methods(["good, own_good:Good", "good", "causalged"], [], skip_missing=False)
    assert [(one.name, one.title) for one in chosen] == [("good", "good"), ("own_good:Good", "Good")]
    assert choose_methods(["floors"], [], skip_missing=False) == ([], [])


def test_titles_that_would_be_the_same_are_told_apart(own):
    chosen, _ = choose_methods(["own_good:Good"], parse_brought(["Good=x.csv", "CausalGeD=y.csv"]), skip_missing=False)
    titles = [one.title for one in chosen]
    assert titles == ["Good (own_good:Good)", "Good (brought:Good)", "CausalGeD (brought:CausalGeD)"]


def test_a_changed_file_of_ones_own_is_another_method(own):
    before = find_method("own_good:Good").code_version()
    (own / "own_good.py").write_text(GOOD + "# changed\n")
    assert find_method("own_good:Good").code_version() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--methods", "spagee"], "no method is called 'spagee'"),
        (["--methods", "no_such_module:X"], "needs the package 'no_such_module'"),
        (["--methods", "json:Nothing"], "module json has no class 'Nothing'"),
        (["--methods", "floors", "--predictions", "x.csv"], "expected NAME=FILE"),
        (["--methods", "floors", "--predictions", "A=x.csv", "--predictions", "A=y.csv"], "names 'A' twice"),
        (["--methods", "floors", "--predictions", "A=missing/{dataset}.csv"], "missing/simulated.csv: cannot read"),
        (["--methods", "floors", "--dataset", "simulatd"], "did you mean 'simulated'?"),
        (["--methods", "floors", "--set", "train.epoch=3"], "did you mean 'train.epochs'?"),
        (["--methods", "floors", "--export-splits", "/dev/null/x"], "cannot write to /dev/null/x"),
        (["--write-results", "results.md"], "no tracking store at"),
        (["--write-results", "results.md", "--audit"], "--audit cannot stand beside --write-results"),
        (
            ["--write-results", "results.md", "--export-splits", "x"],
            "--export-splits cannot stand beside --write-results",
        ),
        (["--write-results", "results"], "expected a Markdown file such as docs/results.md"),
        (["--comparison", "abc"], "--comparison needs --write-results"),
        (["--methods", ","], "--methods names nothing"),
        (["--methods", "floors", "--set", "method=spage"], "name methods with --methods"),
        (["--methods", "floors", "--set", "evaluation.protocol=published"], "name it with --protocol"),
    ],
)
def test_mistakes_in_the_command(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def whole():
    """A prediction of every gene and spot of the embedded data set."""
    pair = load_dataset("simulated")
    values = np.ones((pair.adata_st.n_obs, len(pair.genes)), np.float32)
    return pd.DataFrame(values, index=pair.adata_st.obs_names, columns=list(pair.genes))


def write(table, path):
    if path.suffix == ".csv":
        table.to_csv(path)
    else:
        ad.AnnData(
            table.to_numpy(), obs=pd.DataFrame(index=table.index), var=pd.DataFrame(index=table.columns)
        ).write_h5ad(path)
    return path


@pytest.mark.parametrize("ending", ["csv", "h5ad"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[:, 30:], "of 24 genes are missing: "),
        (lambda table: table.iloc[5:], "5 of 400 spots are missing: "),
        (lambda table: table * np.nan, "predicted values are not finite"),
        (lambda table: table[[*table.columns, table.columns[0]]], "genes must be named once"),
    ],
)
def test_predictions_that_cannot_be_scored(change, message, ending, whole, tmp_path, capsys):
    path = write(change(whole), tmp_path / f"wrong.{ending}")
    arguments = ["--methods", "floors", "--folds", "10", "--seeds", "1", "--output", str(tmp_path / "out")]
    assert main([*arguments, "--predictions", f"Mine={path}"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert str(path) in error
    assert not (tmp_path / "out").exists()


def test_the_ending_of_a_file_may_be_in_capitals(whole, tmp_path):
    path = write(whole, tmp_path / "mine.h5ad").rename(tmp_path / "MINE.H5AD")
    genes, spots = list(whole.columns[:3]), list(whole.index)
    assert parse_brought([f"Mine={path}"])[0].find_file("simulated", 0, 0).read(genes, spots).shape == (3, len(spots))


@pytest.mark.parametrize(("name", "message"), [("x.h5ad", "not a readable h5ad file"), ("x.csv", "not a table of num")])
def test_files_that_are_something_else(name, message, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n")
    assert main(["--methods", "floors", "--seeds", "1", "--predictions", f"Mine={tmp_path / name}"]) == 2
    assert message in capsys.readouterr().err


def test_a_file_that_changes_under_way_is_refused(whole, tmp_path):
    path = write(whole, tmp_path / "mine.csv")
    file = parse_brought([f"Mine={path}"])[0].find_file("simulated", 0, 0)
    genes, spots = list(whole.columns[:3]), list(whole.index)
    assert file.read(genes, spots).shape == (3, len(spots))
    write(whole * 2, path)
    with pytest.raises(DataError, match="changed after the command began"):
        file.read(genes, spots)


def test_the_exported_scrna_seq_has_all_genes_as_counted(tiny, tmp_path):
    planner = Planner(tiny.config({"data.min_panel": 20, "data.hvg_fraction": 0.1}), ["simulated"], [0], 1)
    assert len(list(export_splits(planner, tmp_path))) == 1
    (prepared,) = planner.plan.datasets.values()
    found, raw = ad.read_h5ad(tmp_path / "simulated" / "sc.h5ad"), load_dataset("simulated").adata_sc
    assert list(found.var_names) == list(prepared.sc_genes)
    assert set(found.var_names) > set(prepared.panel)
    assert found.n_obs == raw.n_obs
    expected = raw[:, list(found.var_names)].X
    assert abs(found.X - expected).max() == 0
    np.testing.assert_array_equal(np.asarray(found.X.sum(axis=1)).ravel(), found.obs["total_counts"])


def test_the_audit_covers_the_methods(own, capsys, tmp_path, monkeypatch):
    source = (
        "import numpy as np\n"
        "class Honest:\n"
        "    def fit(self, visible, seed): self.x = visible.x_st\n"
        "    def predict(self, genes): return np.tile(self.x.mean(0), (len(genes), 1))\n"
        "class Restless(Honest):\n"
        "    def predict(self, genes): return np.random.default_rng().random((len(genes), self.x.shape[1]))\n"
        "class Raising(Honest):\n"
        "    def fit(self, visible, seed): raise ValueError('does not\\nconverge')\n"
    )
    (own / "own_audited.py").write_text(source)
    tiny = ["--set", "train.epochs=1", "--set", "train.steps_per_epoch=1", "--set", "train.pretrain_epochs=1"]
    tiny += ["--set", "sampling.n_samples=0", "--set", "sampling.n_ensemble=1", "--folds", "1"]
    assert main(["--audit", "--methods", "own_audited:Raising,own_audited:Honest,own_audited:Restless", *tiny]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "bit-identical" in next(line for line in lines if line.startswith("own_audited:Honest on simulated"))
    failed = next(line for line in lines if line.startswith("own_audited:Raising on simulated"))
    assert "NOT AUDITED" in failed
    assert "does not converge" in failed
    assert "DIFFERS" in next(line for line in lines if line.startswith("own_audited:Restless on simulated"))


def test_the_list_names_methods_and_imports_none(installed, capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("causalged", "needy", "good", "broken", "simulated"):
        assert name in listed
    assert "own_broken" not in sys.modules


def test_what_is_written_is_named(tmp_path, monkeypatch):
    study = SimpleNamespace(is_comparison=True, labels=["CausalGeD", "SpaGE"])
    found = SimpleNamespace(protocol="published", run_id="r1", study=study, datasets={"mouse": {}, "human": {}})
    monkeypatch.setattr("tune.comparison.results_file.find_comparisons", lambda uri: ["r1"])
    monkeypatch.setattr("tune.comparison.results_file.load_results", lambda uri, run_id: found)
    monkeypatch.setattr("tune.comparison.results_file.gather", lambda results: results)
    monkeypatch.setattr("tune.comparison.results_file.make_files", lambda contents, path: {})
    lines = list(write_results("sqlite:///x.db", tmp_path / "results.md"))
    assert lines[1:] == ["  data sets: mouse, human", "  methods: CausalGeD, SpaGE"]


def test_a_section_goes_between_its_markers_and_only_there():
    text = replace_section("# Results\n", "published", "one")
    assert replace_section(text, "published", "two") == text.replace("one\n<!--", "two\n<!--")
    both = replace_section(text, "heldout_genes", "three")
    assert both.startswith(text.rstrip())
    assert replace_section(both, "published", "one") == both


def test_the_live_table_shows_no_epochs_where_there_are_none():
    board = Board(n_trials=2, n_epochs=20)
    board.start("method=SpaGE", 10, "mouse", has_epochs=False)
    board.start("method=CausalGeD", 10, "mouse")
    board.report_epoch("method=CausalGeD", 3, {"val_pcc": 0.3})
    console = Console(file=io.StringIO(), width=80, height=30)
    console.print(draw(board, 80, 30))
    lines = {line.split()[0]: line for line in console.file.getvalue().splitlines() if line.startswith("method")}
    assert "3/10" in lines["method=CausalGeD"]
    assert lines["method=SpaGE"].strip() == "method=SpaGE"
    board.finish("method=SpaGE", failed=False)
    assert board.epochs_over == 13  # a whole unit of work, though no epoch was reported
