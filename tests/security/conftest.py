"""A tiny study run as a user runs it, with every process watched; several tests ask what was seen."""

import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from watched import ROOT, STUDY, TINY, watch


@pytest.fixture(scope="session")
def watched_study(tmp_path_factory):
    """A study of two trials on a Ray of its own, under the strictest umask."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "two_decays.yaml").write_text(STUDY)
    script = str(ROOT / "tune" / "run_ablation.py")
    command = [sys.executable, script, "--study", folder / "two_decays.yaml", "--config", folder / "tiny.yaml"]
    sessions = Path(tempfile.mkdtemp(prefix="cgd-"))  # the path of a socket must be short
    variables = {"RAY_TMPDIR": str(sessions)}
    try:
        seen = watch([*map(str, command), "--output", str(folder / "out")], folder, umask=0o077, **variables)
        assert seen.process.returncode == 0, seen.process.stderr
        seen.sessions = sessions
        yield seen
    finally:
        shutil.rmtree(sessions, ignore_errors=True)
