"""Before a study on a cluster: every node that could run its trials is looked at, and a bad one is named.

Nodes that join later, which the autoscaler starts, are looked at before the first trial of each of their processes.

No node needs the tracking store: only the driver writes to it, and has opened it by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray import tune as ray_tune
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune.checkpoints.options import CHECKPOINTS
from tune.cluster.connection import ClusterError, is_joined, list_checked, note_checked
from tune.cluster.node_check import Expected, examine, find_problems_once
from tune.trials.messages import NodeProblem, from_report, to_report

SECONDS_VARIABLE = "CGD_NODE_CHECK_SECONDS"
_SECONDS = 90.0  # a node answers in a few; one that has to unpack our code and import torch first takes more
_MEND = (
    "Give every node the driver's versions (pip install -c constraints.txt), and an --output folder that all of them "
    "share or --checkpoint-storage s3://BUCKET/PREFIX; docs/cluster.md says how"
)


def check_nodes(
    output: Path, data: Sequence[ray.ObjectRef] = (), files: Sequence[Path] = (), storage: str | None = None
) -> None:
    """Look at every node that can run trials, if this driver joined a cluster.

    Parameters
    ----------
    output
        The output folder: trials write their checkpoints there, on whatever node they run.
    data
        What trials read from the object store.
    files
        What trials read from disk.
    storage
        Where checkpoints are kept for all nodes; without one, all must share the output folder.

    Raises
    ------
    ClusterError
        A node has other versions, cannot import the code, does not see the data or the output folder, or does not
        answer in time (`CGD_NODE_CHECK_SECONDS`, 90); all such nodes are named.
    """
    if not is_joined():
        return
    with _write_expectations(output, files, storage) as expected:
        nodes = {node["NodeID"]: node for node in trial_nodes()}
        answers = _ask_all(list(nodes), expected, data)
    problems = {node_name(nodes[node_id]): answer for node_id, answer in answers.items() if answer}
    if problems:
        raise ClusterError(_write_refusal(problems, len(answers)))
    note_checked(answers)
    names = ", ".join(node_name(nodes[node_id]) for node_id in answers)
    print(f"nodes checked: {names}" if names else "no node can run trials yet; each is checked as it joins")


def trial_nodes() -> list[dict[str, Any]]:
    """Nodes that are alive and have CPUs for Ray, as `ray.nodes()` describes them; a head without any runs no trial."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


def node_name(node: Mapping[str, Any]) -> str:
    """Host name, address and the start of Ray's id, which `ray list nodes` shows."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


@contextmanager
def _write_expectations(output: Path, files: Sequence[Path] = (), storage: str | None = None) -> Iterator[Expected]:
    expected = Expected.describe_this_process(output / CHECKPOINTS, files, storage)
    try:
        expected.write_probe()
        yield expected
    finally:
        expected.remove_probe()


def _ask_all(node_ids: Sequence[str], expected: Expected, data: Sequence[ray.ObjectRef]) -> dict[str, list[str]]:
    """Problems of each node, by id; without those that are gone by then, as spot instances may be."""
    # no CPU asked for: a node that is busy with another study answers too
    task = ray.remote(num_cpus=0, max_retries=0)(examine)
    asked = {}
    for node_id in node_ids:
        where = NodeAffinitySchedulingStrategy(node_id, soft=False)
        # in a list, so that the node fetches them itself and can say what went wrong
        asked[node_id] = task.options(scheduling_strategy=where).remote(expected, list(data))
    answers = _collect_answers(asked)
    alive = {node["NodeID"] for node in trial_nodes()}
    return {node_id: answer for node_id, answer in answers.items() if node_id in alive}


def _collect_answers(asked: Mapping[str, ray.ObjectRef]) -> dict[str, list[str]]:
    """What each node answered, or that it did not in time."""
    if not asked:
        return {}
    seconds = float(os.environ.get(SECONDS_VARIABLE, _SECONDS))
    _, late = ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
    for reference in late:
        ray.cancel(reference, force=True)
    too_late = [f"did not answer within {seconds:.0f} s"]
    return {node_id: too_late if reference in late else _read_answer(reference) for node_id, reference in asked.items()}


def _read_answer(reference: ray.ObjectRef) -> list[str]:
    try:
        return ray.get(reference)
    except Exception as error:  # the code cannot be unpacked there, the process died, the node went away, ...
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return [f"cannot run a task: {lines[-1] if lines else type(error).__name__}"]


def _write_refusal(problems: Mapping[str, Sequence[str]], n_nodes: int) -> str:
    lines = [f"  {name}: {'; '.join(reasons)}" for name, reasons in sorted(problems.items())]
    head = f"{len(problems)} of {n_nodes} nodes cannot run trials of this study:"
    return "\n".join([head, *lines, _MEND])


# ---- nodes that join later ------------------------------------------------------------------------------------------


class NodeStop(ray_tune.Stopper):
    """Ends a study as soon as a trial reports that its node cannot run trials, which would fail one after the other."""

    error: ClusterError | None = None

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Asked by Tune of each report before anything else sees it."""
        message = from_report(result)
        if isinstance(message, NodeProblem):
            self.error = _make_late_refusal(message.reason)
            raise self.error
        return False

    def stop_all(self) -> bool:
        return False


@contextmanager
def guard_trials(
    trainable: Callable[..., Any], output: Path, files: Sequence[Path] = (), storage: str | None = None
) -> Iterator[Callable[..., Any]]:
    """The trainable, looking at its node first unless `check_nodes` has; for a `Tuner` with a `NodeStop`."""
    with _look_at_nodes_that_join(output, files, storage) as problem_here:

        def guarded(config: dict[str, Any]) -> Any:
            problem = problem_here()
            if problem:
                ray_tune.report(to_report(NodeProblem(problem)))
                return None
            return trainable(config)

        yield guarded if is_joined() else trainable


@contextmanager
def guard_tasks(
    function: Callable[..., Any], output: Path, files: Sequence[Path] = (), storage: str | None = None
) -> Iterator[Callable[..., Any]]:
    """The function of a Ray task, looking at its node first; `ray.get` of it within raises ClusterError."""
    with _look_at_nodes_that_join(output, files, storage) as problem_here:

        def guarded(*arguments: Any) -> Any:
            problem = problem_here()
            if problem:
                raise _RefusedHere(problem)
            return function(*arguments)

        try:
            yield guarded if is_joined() else function
        except _RefusedHere as error:  # as Ray re-raises it, with a traceback for a message
            raise _make_late_refusal(getattr(error, "cause", error)) from None


class _RefusedHere(Exception):
    """A task found that its node cannot run it."""


def _make_late_refusal(problem: object) -> ClusterError:
    return ClusterError(f"a node that joined meanwhile cannot run trials of this study:\n  {problem}\n{_MEND}")


@contextmanager
def _look_at_nodes_that_join(output: Path, files: Sequence[Path], storage: str | None) -> Iterator[Callable[[], str]]:
    """A function that says on a node what is wrong with it, empty if nothing is or if `check_nodes` found it good."""
    if not is_joined():
        yield str
        return
    checked = list_checked()
    with _write_expectations(output, files, storage) as expected:

        def problem_here() -> str:
            problems = [] if ray.get_runtime_context().get_node_id() in checked else find_problems_once(expected)
            where = f"{os.uname().nodename} ({ray.util.get_node_ip_address()})"
            return f"{where}: {'; '.join(problems)}" if problems else ""

        yield problem_here
