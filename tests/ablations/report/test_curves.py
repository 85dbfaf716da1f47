"""Curves of the levels: what is averaged, what is drawn, and that names are text."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from ablations.report.figures.curves import COLUMNS, SMALLEST_SPAN, average_curves, draw_curves, write_curves
from cgd.errors import CGDError

LEVELS = ["0.8", "<b>$1.0$</b>"]


def curves(values):
    """{(dataset, level, replicate): values by epoch} as a table."""
    rows = [(*key, epoch, value) for key, found in values.items() for epoch, value in enumerate(found, start=1)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


TABLE = curves(
    {
        ("mouse", LEVELS[0], "seed 0"): [0.1, 0.2, 0.3],
        ("mouse", LEVELS[0], "seed 1"): [0.3, 0.4],
        ("mouse", LEVELS[1], "seed 0"): [0.5, 0.5, 0.5],
        ("man", LEVELS[0], "seed 0"): [0.4001, 0.4002],
    }
)


def test_the_mean_ends_where_the_first_replicate_ends():
    own = TABLE[(TABLE["dataset"] == "mouse") & (TABLE["level"] == LEVELS[0])]
    epochs, mean = average_curves([rows for _, rows in own.groupby("replicate")])
    np.testing.assert_array_equal(epochs, [1, 2])
    np.testing.assert_allclose(mean, [0.2, 0.3])
    assert average_curves([])[0].size == 0


def test_each_data_set_has_a_panel_and_an_axis_that_hides_noise():
    figure = draw_curves(TABLE, LEVELS)
    assert [panel.get_title(loc="left") for panel in figure.axes] == ["mouse", "man"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == LEVELS
    low, high = figure.axes[1].get_ylim()
    assert high - low == pytest.approx(SMALLEST_SPAN)
    assert low < 0.4001 < 0.4002 < high


def test_files_are_whole_and_names_in_them_are_text(tmp_path):
    svg, png, csv = write_curves(TABLE, LEVELS, tmp_path)
    text = "".join(ElementTree.fromstring(svg.read_text()).itertext())
    assert LEVELS[1] in text
    assert png.read_bytes().startswith(b"\x89PNG")
    pd.testing.assert_frame_equal(pd.read_csv(csv, dtype={"level": str}), TABLE)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curves.csv", "curves.png", "curves.svg"]
    assert write_curves(TABLE[:0], LEVELS, tmp_path / "none") == []
    (tmp_path / "file").touch()
    with pytest.raises(CGDError, match="cannot write the curves"):
        write_curves(TABLE, LEVELS, tmp_path / "file")
