"""What a search says on the terminal: the best so far is a whole sample within the memory asked for."""

import io

from tune.search.progress import SearchProgress
from tune.terminal.progress import Progress
from tune.terminal.text import make_console


def test_only_a_whole_sample_that_fits_is_the_best_so_far():
    with Progress(5, 500, make_console(io.StringIO())) as bar:
        progress = SearchProgress(bar, (0.2, "sample 0"))
        assert bar.board.best == {"validation": (0.2, "sample 0")}
        for name in ("sample 1", "sample 2", "sample 3", "sample 4"):
            progress.start(name)
            progress.percent(name, 50, 0.9)
        progress.stop("sample 1", 0.9, 50)
        progress.finish("sample 2", 0.8, 10.0, eligible=False)
        assert bar.board.best == {"validation": (0.2, "sample 0")}
        progress.finish("sample 3", 0.3, 10.0)
        progress.finish("sample 4", 0.25, 10.0)
        assert bar.board.best == {"validation": (0.3, "sample 3")}
    lines = [line.partition(";")[0] for line in bar.console.file.getvalue().splitlines()]
    assert lines == [
        "[1/5] sample 1: stopped at 50 % with validation PCC 0.9000",
        "[2/5] sample 2: validation PCC 0.8000 in 10 s, over the memory asked for",
        "[3/5] sample 3: validation PCC 0.3000 in 10 s, the best so far",
        "[4/5] sample 4: validation PCC 0.2500 in 10 s (best 0.3000, sample 3)",
    ]


def test_runs_of_a_confirmation_have_no_best():
    with Progress(1, 100, make_console(io.StringIO())) as bar:
        progress = SearchProgress(bar, is_ranked=False)
        progress.start("default")
        progress.percent("default", 100, 0.9)
        progress.finish("default", 0.9, 10.0)
    assert not bar.board.best
    assert "best" not in bar.console.file.getvalue()
