"""Tables I in a Markdown file, made from the tracking store alone: the same store gives the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ablations.findings.results import find_comparisons, load_results
from ablations.report.formats.files import replace_file
from ablations.report.formats.table_text import table_text
from ablations.study.comparison import PROTOCOLS
from cgd.errors import TrackingError


def write_results(uri: str, path: Path, run_ids: Sequence[str] | None = None) -> Iterator[str]:
    """Write one section per protocol between marker comments of `path`; a line for each.

    What stands between the markers is replaced; where there are none, the section is put at the end of the file.

    Parameters
    ----------
    run_ids
        The comparisons; without any the newest of each protocol.

    Raises
    ------
    TrackingError
        No such comparison, two of one protocol, or the file cannot be written.
    """
    found = [load_results(uri, run_id) for run_id in run_ids or find_comparisons(uri)]
    by_protocol = {results.protocol: results for results in found}
    if len(by_protocol) < len(found):
        raise TrackingError("two of these comparisons are of one protocol; name one of each with --comparison")
    for results in found:
        if not results.study.is_comparison:
            raise TrackingError(f"run {results.run_id} is the study '{results.study.name}', no comparison of methods")
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        for protocol in PROTOCOLS:
            if protocol in by_protocol:
                text = replace_section(text, protocol, table_text(by_protocol[protocol]))
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
    except (OSError, UnicodeDecodeError) as error:
        raise TrackingError(f"cannot write {path}: {error}; give another file") from None
    for results in found:
        yield f"{path}: Table I, {results.protocol} protocol, from run {results.run_id}"
        yield f"  data sets: {', '.join(results.datasets)}"
        yield f"  methods: {', '.join(results.study.labels)}"


def replace_section(text: str, protocol: str, section: str) -> str:
    """`text` with `section` between the markers of a protocol. Raises TrackingError where one marker is missing."""
    begin, end = (f"<!-- table one, {protocol}: {what} -->" for what in ("begin", "end"))
    block = f"{begin}\n{section}\n{end}"
    if text.count(begin) == text.count(end) == 0:
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise TrackingError(f"expected '{begin}' once and '{end}' once after it; mend the file, or remove both")
    return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]
