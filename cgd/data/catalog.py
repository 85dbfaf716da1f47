"""Data sets by name: the embedded simulator, folders in `CGD_DATA_DIR`, and paths."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from cgd.data.pair import Pair, make_pair, read_pair
from cgd.data.simulate import Simulation, simulate_pair
from cgd.errors import DataError, closest

# simulated tissues that need no download
SIMULATED: dict[str, Callable[[], Simulation]] = {
    "simulated": partial(simulate_pair, technology="visium", n_genes=240),
    "simulated_starmap": partial(simulate_pair, technology="starmap"),
    "simulated_seqfish": partial(simulate_pair, technology="seqfish"),
}

# data sets whose ST side has the tissue, technology and size of one in the paper's Table III
PAPER_NAMES = {"mouse_v1_starmap_zeisel": "MVC", "mouse_hippocampus_seqfish_zeisel": "MH"}


def data_dir() -> Path | None:
    """Folder of data sets named by the environment variable CGD_DATA_DIR."""
    value = os.environ.get("CGD_DATA_DIR")
    return Path(value).expanduser() if value else None


def list_datasets() -> list[str]:
    """Names that `load_dataset` knows here."""
    folder = data_dir()
    found = [] if folder is None or not folder.is_dir() else sorted(p.name for p in folder.iterdir() if _is_dataset(p))
    return [*SIMULATED, *found]


def load_dataset(name: str) -> Pair:
    """Load a data set by name, folder, or `ST.h5ad,SC.h5ad`.

    Raises
    ------
    DataError
        No such data set (the closest name is suggested), or it cannot be used.
    """
    if name in SIMULATED:
        simulation = SIMULATED[name]()
        return make_pair(simulation.adata_st, simulation.adata_sc, name)
    if "," in name:
        st, _, sc = name.partition(",")
        return read_pair(Path(st.strip()).expanduser(), Path(sc.strip()).expanduser())
    folder = data_dir()
    if os.sep not in name and folder is not None and (folder / name).is_dir():
        return read_pair(folder / name)
    path = Path(name).expanduser()
    if path.exists():
        return read_pair(path)
    if os.sep in name:
        raise DataError(f"no folder at {name}; give a folder with a data set, or one of: {', '.join(list_datasets())}")
    where = f"in CGD_DATA_DIR ({folder})" if folder else "(CGD_DATA_DIR is not set)"
    raise DataError(f"no data set '{name}' {where} and no folder of that name here; {closest(name, list_datasets())}")


def _is_dataset(path: Path) -> bool:
    return path.is_dir() and (any(path.glob("*st.h5ad")) or (path / "Spatial_count.txt").exists())
