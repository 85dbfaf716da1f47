"""Table I as files of a document, made from the tracking store alone: the same store gives the same text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

from ablations.report.content import Content, gather
from ablations.report.formats.files import replace_file, to_csv
from ablations.report.formats.markdown import escape, set_table, write_table_one
from ablations.report.formats.tidy import tabulate_sheets
from ablations.report.sheets.comparison import make_means
from ablations.study.comparison import PROTOCOLS
from cgd.errors import ConfigError, TrackingError
from tune.store.reading import find_comparisons, load_results


def write_results(uri: str, path: Path, run_ids: Sequence[str] | None = None) -> Iterator[str]:
    """Write a short table per protocol into `path`, and whole Tables I into the folder beside it; a line for each.

    `docs/results.md` gets the means between the marker comments of each protocol (at its end where it has none),
    `docs/results/` a page, its numbers and those over all data sets, each as CSV.

    Parameters
    ----------
    run_ids
        The comparisons; without any the newest of each protocol.

    Raises
    ------
    ConfigError
        `path` is no Markdown file.
    TrackingError
        No such comparison, two of one protocol, or a file cannot be written.
    """
    if path.suffix != ".md":
        raise ConfigError(f"--write-results {path}: expected a Markdown file such as docs/results.md")
    found = [load_results(uri, run_id) for run_id in run_ids or find_comparisons(uri)]
    by_protocol = {results.protocol: results for results in found}
    if len(by_protocol) < len(found):
        raise TrackingError("two of these comparisons are of one protocol; name one of each with --comparison")
    for results in found:
        if not results.study.is_comparison:
            raise TrackingError(f"run {results.run_id} is the study '{results.study.name}', no comparison of methods")
    try:
        contents = [gather(by_protocol[protocol]) for protocol in PROTOCOLS if protocol in by_protocol]
        for name, text in make_files(contents, path).items():
            (path.parent / name).parent.mkdir(parents=True, exist_ok=True)
            replace_file(path.parent / name, text)
    except (OSError, UnicodeDecodeError) as error:
        raise TrackingError(f"cannot write {path}: {error}; give another file") from None
    for results in found:
        yield f"{path}: Table I, {results.protocol} protocol, from run {results.run_id}"
        yield f"  data sets: {', '.join(results.datasets)}"
        yield f"  methods: {', '.join(results.study.labels)}"


def make_files(contents: Sequence[Content], path: Path) -> dict[str, str]:
    """Name relative to the folder of `path` -> text, `path` itself last so that what it links to is there."""
    folder, text = path.stem, path.read_text(encoding="utf-8") if path.exists() else ""
    files = {}
    for content in contents:
        protocol = content.results.protocol
        files[f"{folder}/{protocol}.md"] = write_table_one(content)
        files[f"{folder}/{protocol}.csv"] = to_csv(tabulate_sheets(content.data_sets))
        files[f"{folder}/{protocol}_overall.csv"] = to_csv(tabulate_sheets(content.sheets[:1]))
        if content.draws_of_methods:
            files[f"{folder}/{protocol}_draws.csv"] = to_csv(tabulate_sheets(content.draws_of_methods))
        text = replace_section(text, protocol, write_section(content, quote(f"{folder}/{protocol}")))
    return files | {path.name: text}


def write_section(content: Content, link: str) -> str:
    """What was found in a sentence, the means, and where the rest is. `link`: its files, without their endings."""
    assert content.table_one is not None, "a comparison"
    results = content.results
    parts = [f"**{escape(content.stamp)}**"] * bool(content.stamp) + [escape(content.opening)]
    for metric in results.outcomes:
        means = make_means(content.table_one, metric)
        parts += [set_table(means), f"*{escape(means.note)}*"]
    more = f"[every metric, interval and difference]({link}.md), as CSV [by data set]({link}.csv), "
    more += f"[the draws by data set]({link}_draws.csv) " if content.draws_of_methods else ""
    parts.append(f"The whole table: {more}and [over all data sets]({link}_overall.csv).")
    return "\n\n".join([*parts, escape(f"Run {results.run_id}, code {results.code_version or 'not recorded'}.")])


def replace_section(text: str, protocol: str, section: str) -> str:
    """`text` with `section` between the markers of a protocol. Raises TrackingError where one marker is missing."""
    begin, end = (f"<!-- table one, {protocol}: {what} -->" for what in ("begin", "end"))
    block = f"{begin}\n{section}\n{end}"
    if text.count(begin) == text.count(end) == 0:
        return f"{text.rstrip()}\n\n{block}\n".lstrip()
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise TrackingError(f"expected '{begin}' once and '{end}' once after it; mend the file, or remove both")
    return text[: text.index(begin)] + block + text[text.index(end) + len(end) :]
