"""What commands take, and what they keep of it."""

import argparse
from pathlib import Path

import pytest

from cgd.errors import TrackingError
from tune.commands.options import file_name, make_ui_command, record_arguments
from tune.store.errors import hide_password
from tune.store.tracking import Tracking


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql+psycopg://:p%40ss@host/db#name", "postgresql+psycopg://:***@host/db#name"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
    ],
)
def test_passwords_are_not_shown(url, shown):
    assert hide_password(url) == shown


def test_the_address_of_a_store_is_shown_without_its_password(tmp_path):
    uri = "nonsense://me:secret@host/x"
    assert "secret" not in make_ui_command(uri, None)
    with pytest.raises(TrackingError, match="nonsense://me:\\*\\*\\*@host/x") as refused:
        Tracking(uri, tmp_path)
    assert "secret" not in str(refused.value)


def test_what_is_recorded_holds_no_password_and_is_json():
    given = argparse.Namespace(
        output=Path("a"), storage="mysql://me:secret@host/db", seeds=3, values=["a=1"], name=None
    )
    assert record_arguments(given) == {
        "output": "a", "storage": "mysql://me:***@host/db", "seeds": 3, "values": ["a=1"], "name": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "", ".hidden", "..", "two words", "a\n"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(argparse.ArgumentTypeError, match="expected letters"):
        file_name(name)


def test_an_ordinary_name_is_taken():
    assert file_name("full-1a2b.v2") == "full-1a2b.v2"
