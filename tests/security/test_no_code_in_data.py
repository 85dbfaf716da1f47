"""Nothing that is read can run: no pickle, no YAML objects, no shell."""

import ast
import hashlib
import json
import pickle
import sys
from contextlib import suppress

import h5py
import numpy as np
import pytest
from watched import ROOT

from ablations.search.space import load_space
from ablations.study.study import load_study
from cgd.baselines.predictions import BroughtFile
from cgd.config import Config
from cgd.data.pair import read_pair
from cgd.errors import CGDError, CheckpointError
from cgd.estimator import CausalGeD
from cgd.training.checkpoint import read_folder
from tune.commands.options import parse_assignment

FILES = [path for room in ("cgd", "ablations", "tune") for path in sorted((ROOT / room).rglob("*.py"))]
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "pty",
    "ctypes",
}
CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pd.read_pickle", "pandas.read_pickle"}
CALLS |= {"torch.load", "torch.save", "torch.jit.load", "np.load", "numpy.load", "np.save", "numpy.save"}
CALLS |= {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "yaml.Loader", "yaml.UnsafeLoader"}

BAD = """
import pickle
from subprocess import run
from torch import load
def f(text, path):
    yaml.load(text, Loader=yaml.Loader); torch.load(path); np.load(path, allow_pickle=True); eval(text)
    subprocess.run(text, shell=True); os.system(text); adata.to_pickle(path)
"""


RESTORES = {"restore", "can_restore", "from_directory", "resume_from_checkpoint"}


def faults_of(source):
    """What a source does that could run what it reads, by line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(node.lineno, name) for name in names if name in CALLS or node.module.split(".")[0] in MODULES]
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = ast.unparse(node)
            found += [(node.lineno, name)] * (name in CALLS or name.endswith((".to_pickle", ".read_pickle")))
        elif isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle", "weights_only"):
            found.append((node.lineno, f"{node.arg}={ast.unparse(node.value)}"))
    return found


def restores_in(source):
    """Attributes of a source by which Ray Tune would read back what it pickled."""
    return {node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)} & RESTORES


def offenders(find, paths=FILES):
    """What `find` finds wrong, of each file in which it finds anything."""
    found = {path.relative_to(ROOT).as_posix(): find(path.read_text(encoding="utf-8")) for path in paths}
    return {name: wrong for name, wrong in found.items() if wrong}


def test_the_reader_of_sources_sees_each_of_them():
    seen = {name for _, name in faults_of(BAD)}
    assert seen >= {"pickle", "torch.load", "yaml.load", "yaml.Loader", "np.load", "eval", "os.system"}
    assert seen >= {"allow_pickle=True", "shell=True", "adata.to_pickle"}
    assert restores_in("Tuner.restore(path)") == {"restore"}
    assert len(FILES) > 100


def test_a_planted_file_is_named_with_its_faults(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "good.py").write_text("import json\n")
    (tmp_path / "bad.py").write_text("import json\nimport dill\n")
    assert offenders(faults_of, sorted(tmp_path.iterdir())) == {"bad.py": [(2, "dill")]}


def test_no_source_can_run_what_it_reads():
    assert offenders(faults_of) == {}


@pytest.fixture
def unpickled():
    """Names that were looked up by pickle while the test ran."""
    names, active = [], [True]

    def watch(event, args):
        if event == "pickle.find_class" and active[0]:
            names.append(args)

    sys.addaudithook(watch)  # it cannot be taken away again, only be put to rest
    yield names
    active[0] = False


class Bomb:
    """Pickled, it is a call that leaves a mark."""

    def __reduce__(self):
        return exec, ("import sys; sys.cgd_was_here = True",)


PICKLE = pickle.dumps(Bomb())


def assert_nothing_ran(unpickled):
    assert not hasattr(sys, "cgd_was_here")
    assert unpickled == []


def test_the_watch_on_pickle_sees_one(unpickled):
    pickle.loads(PICKLE)
    assert unpickled
    del sys.cgd_was_here


@pytest.mark.parametrize("where", ["X", "uns", "obs", "provenance"])
def test_a_data_set_with_a_pickle_in_it_runs_nothing(tiny, tmp_path, unpickled, where):
    for name, adata in (("st", tiny.simulation.adata_st), ("sc", tiny.simulation.adata_sc)):
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    with h5py.File(tmp_path / "st.h5ad", "r+") as file:
        bomb = np.void(PICKLE)
        if where == "X":
            del file["X"]
            file["X"] = bomb
        elif where == "obs":
            _replace(file, "obs/n", np.array([bomb] * 60))
        else:
            _replace(file, "uns/provenance" if where == "provenance" else "uns/extra", bomb)
    with suppress(CGDError):  # where it is not read over it is refused
        read_pair(tmp_path)
    assert_nothing_ran(unpickled)


def _replace(file, name, value):
    if name in file:
        del file[name]
    file[name] = value


@pytest.mark.parametrize("name", ["a.h5ad", "a.csv", "a.npz"])
def test_predictions_that_are_a_pickle_run_nothing(tmp_path, unpickled, name):
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, X=np.array([Bomb()], dtype=object))
    else:
        path.write_bytes(PICKLE)
    with pytest.raises(CGDError, match=path.name):
        BroughtFile.identify(path).read(["g"], ["s"])
    assert_nothing_ran(unpickled)


@pytest.mark.parametrize("content", [PICKLE, b"", b"\xff" * 64], ids=["pickle", "empty", "noise"])
def test_a_checkpoint_that_is_a_pickle_runs_nothing(tmp_path, unpickled, content):
    state = {"tensors_sha256": hashlib.sha256(content).hexdigest(), "format": 4}
    (tmp_path / "tensors.safetensors").write_bytes(content)
    (tmp_path / "state.json").write_text(json.dumps(state))
    for read in (read_folder, CausalGeD.load):
        with pytest.raises(CheckpointError):
            read(tmp_path)
    assert_nothing_ran(unpickled)


def test_what_a_model_and_a_checkpoint_are_made_of(tiny, tmp_path):
    model = CausalGeD(tiny.config()).fit(tiny.simulation.adata_st, tiny.simulation.adata_sc)
    model.save(tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert files.keys() == {"state.json", "tensors.safetensors"}
    json.loads(files["state.json"])
    length = int.from_bytes(files["tensors.safetensors"][:8], "little")
    json.loads(files["tensors.safetensors"][8 : 8 + length])


OBJECT = "!!python/object/apply:os.system ['touch %s']"


@pytest.mark.parametrize("read", [Config.from_yaml, load_study, load_space, lambda path: _assign(path)])
def test_a_yaml_file_makes_no_objects(tmp_path, read):
    path, mark = tmp_path / "a.yaml", tmp_path / "mark"
    path.write_text("name: " + OBJECT % mark)
    with pytest.raises(CGDError):
        read(path)
    assert not mark.exists()


def _assign(path):
    return parse_assignment(path.read_text().replace("name: ", "seed="))


def test_the_snapshots_of_tune_are_written_and_never_read(watched_study):
    assert list((watched_study.output / "ray_tune").rglob("tuner.pkl")), "Tune no longer writes it: drop the claim"
    assert offenders(restores_in) == {}
