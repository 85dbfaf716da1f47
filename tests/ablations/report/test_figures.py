import dataclasses
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from made_up_study import made_up
from matplotlib.text import Text

from ablations.findings.tables import build_tables
from ablations.report.figures.drawing import spread, to_pdf, to_png, to_svg, wrap
from ablations.report.figures.effects import draw_effects
from ablations.report.figures.figure import draw
from ablations.report.figures.lines import place_levels
from ablations.statistics.paired import Estimate
from ablations.study.study import Study, load_study

DATA = {"tissue_a": "MVC", "tissue_b": None, "a_third_tissue_with_a_long_name": "MC"}
FORMS = {"bars": "decoder_training", "lines": "depth", "table": "timestep_sampling"}


def numbered(values, default, **more):
    """A study of a numeric factor with these levels."""
    levels = [{"value": value, "label": str(value)} for value in values]
    return Study.from_dict(
        {"name": "tried", "question": "q?", "hypothesis": "h.", "factor": {"path": "model.depth", "name": "Depth"}}
        | {"levels": levels, "default": default, "figure": "lines"}
        | more
    )


def tables_of(study, datasets=DATA, **options):
    return build_tables(made_up(study, datasets, **options), n_resamples=100)


def words(figure):
    root = ElementTree.fromstring(to_svg(figure, inline=True))
    return ["".join(node.itertext()) for node in root.iter() if node.tag.endswith("text")]


def overlaps(figure):
    """Pairs of texts whose boxes cover each other."""
    renderer = figure.canvas.get_renderer()
    found = {id(t): t for t in figure.findobj(Text)}.values()  # a legend's are found twice
    texts = [t for t in found if t.get_text().strip() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    inside = [(text, box.shrunk(0.98, 0.9)) for text, box in boxes if box.width > 1]
    return [(a, b) for i, (a, one) in enumerate(inside) for b, other in inside[i + 1 :] if one.overlaps(other)]


@pytest.fixture(scope="module", params=list(FORMS))
def form(request):
    study = load_study(FORMS[request.param])
    return request.param, study, tables_of(study)


def test_every_form_names_data_sets_levels_floors_and_ceilings(form):
    _, study, tables = form
    text = " ".join(words(draw(study, tables)))
    for expected in ("tissue_a", "tissue_b", "MVC", study.labels[0], study.title, "kernel ridge", "ceiling"):
        assert expected in text
    for table in tables:
        assert f"{table.find_best_floor('pcc').estimates['pcc'].mean:.3f}" in text


def test_labels_of_no_figure_overlap(form):
    _, study, tables = form
    for some in (tables, tables[:1]):
        assert overlaps(draw(study, some)) == []
        assert overlaps(draw_effects(study, some)) == []


@pytest.mark.parametrize("kind", ["bars", "lines", "table"])
def test_seven_levels_on_five_data_sets_stay_legible(kind):
    study = numbered([1, 2, 3, 4, 5, 6, 7], 3, figure=kind)
    names = ["mouse_v1_starmap", "mouse_cortex_osmfish", "human_breast_cancer_visium", "mouse_gastrula", "hippocampus"]
    tables = tables_of(study, dict.fromkeys(names, "MPMC"), seeds=(0,))
    figure = draw(study, tables)
    assert overlaps(figure) == []
    assert figure.get_size_inches().max() < 12
    assert overlaps(draw_effects(study, tables)) == []


def test_bars_stand_in_groups_of_a_data_set_with_their_intervals(heldout):
    tables = build_tables(heldout)
    (panel,) = draw(heldout.study, tables).axes
    bars = {round(bar.get_x() + bar.get_width() / 2, 3): bar.get_height() for bar in panel.patches}
    expected = [row.estimates["pcc"].mean for table in tables for row in table.levels]
    assert [bars[x] for x in sorted(bars)] == pytest.approx(expected)
    assert [round(x) for x in sorted(bars)] == [0, 0, 1, 1]
    segments = [s for lines in panel.collections for s in lines.get_segments() if s[0, 0] == s[1, 0]]
    ends = sorted(tuple(segment[:, 1]) for segment in segments)
    assert np.ravel(ends) == pytest.approx(
        np.ravel(
            sorted((row.estimates["pcc"].low, row.estimates["pcc"].high) for table in tables for row in table.levels)
        )
    )


def test_bars_show_the_best_floor_and_no_ceiling_that_squeezes(heldout):
    tables = build_tables(heldout)
    (panel,) = draw(heldout.study, tables).axes
    flat = [s[0, 1] for lines in panel.collections for s in lines.get_segments() if s[0, 1] == s[1, 1]]
    assert flat == pytest.approx([table.find_best_floor("pcc").estimates["pcc"].mean for table in tables])
    assert panel.get_ylim()[1] < 0.5
    assert "0.905 ↑" in " ".join(words(draw(heldout.study, tables)))


def test_a_line_per_data_set_goes_through_the_means():
    study = load_study("depth")
    tables = tables_of(study)
    (panel,) = draw(study, tables).axes
    lines = [container.lines[0] for container in panel.containers]
    assert len(lines) == 3
    for line, table in zip(lines, tables, strict=True):
        assert line.get_ydata() == pytest.approx([row.estimates["pcc"].mean for row in table.levels])
        assert line.get_xdata() == pytest.approx([1, 2, 3, 4, 5], abs=0.06)
    assert len({line.get_marker() for line in lines}) == len({line.get_color() for line in lines}) == 3


def test_a_line_follows_the_axis_in_any_order_of_the_levels():
    study = numbered([4, 1, 2], 2)
    (panel,) = draw(study, tables_of(study, {"tissue_a": None})).axes
    assert panel.containers[0].lines[0].get_xdata() == pytest.approx([1, 2, 4])


def test_places_are_values_then_logarithms_then_ranks():
    assert place_levels(numbered([1, 2, 4], 2)) == ({"1": 1, "2": 2, "4": 4}, False)
    steps = numbered([5, 10, 50, 1000], 50, factor={"path": "sampling.n_steps", "name": "Steps"})
    assert place_levels(steps) == ({"5": 5, "10": 10, "50": 50, "1000": 1000}, True)
    crowded = numbered([999, 1000, 2, 3], 2, factor={"path": "sampling.n_steps", "name": "Steps"})
    assert place_levels(crowded) == ({"999": 0, "1000": 1, "2": 2, "3": 3}, False)
    assert place_levels(load_study("decoder_training"))[0] == {"frozen": 0, "joint": 1}


def test_the_figure_table_has_a_number_per_strategy_and_data_set():
    study = load_study("timestep_sampling")
    tables = tables_of(study)
    text = words(draw(study, tables))
    for table in tables:
        for row in table.levels:
            assert f"{row.estimates['pcc'].mean:.3f}" in text
            assert f"[{row.estimates['pcc'].low:.3f}, {row.estimates['pcc'].high:.3f}]" in text
    assert text.count("paper 0.864") == 3


def test_effects_stand_at_their_difference_with_corrected_marked(heldout):
    tables = build_tables(heldout)
    seen = {
        "joint": Estimate(0.02, 0.01, 0.03, 30, p=0.001, p_holm=0.002, mde=0.015),
        "frozen": Estimate(-0.02, -0.03, -0.001, 30, p=0.04, p_holm=0.08, mde=0.015),
    }
    rows = [dataclasses.replace(row, differences={"pcc": seen["joint"]}) for row in tables[0].levels[1:]]
    first = dataclasses.replace(tables[0], rows=(tables[0].levels[0], *rows))
    rows = [dataclasses.replace(row, differences={"pcc": seen["frozen"]}) for row in tables[1].levels[1:]]
    second = dataclasses.replace(tables[1], rows=(tables[1].levels[0], *rows))
    figure = draw_effects(heldout.study, [first, second])
    (panel,) = figure.axes
    marks = [container.lines[0] for container in panel.containers]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [0.02, -0.02]
    assert [mark.get_markerfacecolor() == "none" for mark in marks] == [False, True]
    ends = [np.sort(container.lines[2][0].get_segments()[0][:, 0]) for container in panel.containers]
    assert np.ravel(ends) == pytest.approx([0.01, 0.03, -0.03, -0.001])
    text = words(figure)
    assert "0.002 *" in text
    assert "0.080" in text


def test_a_level_without_a_result_is_said_not_drawn(heldout):
    genes = heldout.per_gene[heldout.per_gene["level"] == "frozen"]
    tables = build_tables(dataclasses.replace(heldout, per_gene=genes))
    assert words(draw(heldout.study, tables)).count("no result") == 2
    assert words(draw_effects(heldout.study, tables)).count("no result") == 2


def test_names_are_text_not_markup(heldout):
    hostile = {"tissue_a": heldout.datasets["tissue_a"], "tissue_b": {"paper_name": "<b>&$x_$"}}
    tables = build_tables(dataclasses.replace(heldout, datasets=hostile))
    for figure in (draw(heldout.study, tables), draw_effects(heldout.study, tables)):
        assert "tissue_b (<b>&$x_$)" in " ".join(words(figure))


def test_figure_files_are_vectors_with_fonts_and_a_fine_raster(heldout):
    figure = draw(heldout.study, build_tables(heldout), "A stamp.")
    pdf, png = to_pdf(figure), to_png(figure)
    assert b"/FontFile2" in pdf
    assert b"/Type3" not in pdf
    assert b"CreationDate" not in pdf
    width, height = (int.from_bytes(png[i : i + 4]) for i in (16, 20))
    assert [width, height] == pytest.approx(list(figure.get_size_inches() * 300), abs=1)
    assert "A stamp." in to_svg(figure)
    assert "currentColor" in to_svg(figure, inline=True)
    assert "metadata" not in to_svg(figure, inline=True)


def test_labels_are_spread_without_changing_their_order():
    moved = spread([0.5, 0.1, 0.5, 0.9], gap=0.1)
    assert moved == pytest.approx([0.45, 0.1, 0.55, 0.9])
    assert spread([], 0.1) == []


def test_names_break_after_blanks_and_underscores():
    assert wrap("mouse_primary_motor_cortex (MPMC)", 16) == "mouse_primary_\nmotor_cortex\n(MPMC)"
    assert wrap("abcdefgh", 3) == "abc\ndef\ngh"
