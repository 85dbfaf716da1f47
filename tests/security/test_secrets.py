"""What is kept from others: passwords, and the files themselves."""

import stat
import subprocess
import sys

import pytest
from watched import ROOT, STUDY, TINY, user_environment

from tune.search.storage import SearchError, open_earlier, open_storage
from tune.store.errors import hide_password

SECRET = "s3cr3t"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@host:5432/db",
        f"http://me:{SECRET}@host",
        f"http://:{SECRET}@host",
        f"mysql://me:a/{SECRET}@host/db",
        f"mysql://me:a@{SECRET}@host/db",
        f"mysql://me:{SECRET}:@host/db",
        f"postgresql://host/db?user=me&password={SECRET}",
        f"postgresql://host/db?PWD={SECRET}#x",
        f"https://host/?access_token={SECRET}&x=1",
        f"cannot reach http://me:{SECRET}@host: refused, nor postgresql://you:{SECRET}@there",
    ],
)
def test_no_form_of_a_password_is_shown(url):
    assert SECRET not in hide_password(url)
    assert "host" in hide_password(url)


@pytest.mark.parametrize(
    "text", ["sqlite:////a/b@c.db", "http://127.0.0.1:5000/#/a@b", "outputs", "C:/x?a=b", "http://host/x?page=2"]
)
def test_what_holds_no_password_is_shown_as_it_is(text):
    assert hide_password(text) == text


def test_the_storage_of_a_search_is_named_without_its_password(tmp_path):
    url = f"nonsense://me:{SECRET}@host/db"
    for call in (lambda: open_storage(tmp_path / "j", url, tmp_path), lambda: open_earlier(f"{url}#x")):
        with pytest.raises(SearchError) as refused:
            call()
        assert SECRET not in str(refused.value)


@pytest.mark.slow
def test_a_command_that_fails_writes_the_password_nowhere(tmp_path):
    uri = f"http://me:{SECRET}@127.0.0.1:1/?access_token={SECRET}"  # nothing answers there
    (tmp_path / "s.yaml").write_text(STUDY)
    (tmp_path / "c.yaml").write_text(TINY)
    script = [sys.executable, str(ROOT / "tune" / "run_ablation.py"), "--study", "s.yaml", "--config", "c.yaml"]
    command = [*script, "--verbose", "--output", "out", "--tracking-uri", uri]
    env = user_environment(tmp_path, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    process = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=400)
    assert process.returncode == 2, process.stderr
    assert "me:***@127.0.0.1:1" in process.stderr
    assert SECRET not in process.stdout + process.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_under_a_strict_umask_no_file_is_open_to_others(watched_study):
    files = [path for path in watched_study.output.rglob("*") if not path.is_symlink()]
    files = [path for path in files if path.name != "served_model.py"]  # a copy of our own source, with its rights
    assert len(files) > 20
    modes = {path.relative_to(watched_study.output).as_posix(): stat.S_IMODE(path.stat().st_mode) for path in files}
    assert {name: oct(mode) for name, mode in modes.items() if mode & 0o077} == {}


@pytest.mark.parametrize("umask", ["022", "077"])
def test_a_file_has_the_rights_that_the_umask_leaves(tmp_path, umask):
    code = f"""
import os
from pathlib import Path
os.umask(0o{umask})
from ablations.report.formats.files import replace_file
from cgd.files import write_atomically
replace_file(Path("report"), "x")
write_atomically(Path("kept"), "x")
"""
    env = user_environment(tmp_path, PYTHONPATH=str(ROOT))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o666 & ~int(umask, 8)
    assert stat.S_IMODE((tmp_path / "kept").stat().st_mode) == 0o600  # stricter than any umask
