"""What a trial asks of Ray, how many fit, and what is refused."""

import itertools
import sys

import pytest
from ray.core.generated.autoscaler_pb2 import NodeGroupConfig

from cgd.config import Config
from cgd.errors import ConfigError
from tune.cluster.capacity import Capacity, Node, _read_bootstrap, _read_node_groups, measure_machine
from tune.cluster.environment import GROUP_DEFAULTS
from tune.cluster.resources import DRIVER_CPUS, Request, ResourceError, Share, count_concurrent
from tune.commands.options import add_workers

ONE_GPU_MACHINE = Capacity((Node(8, 1),))


def config(**values):
    return Config().with_values({path.replace("__", "."): value for path, value in values.items()})


def test_a_trial_asks_for_its_threads_and_a_gpu_per_worker():
    assert Share().request(config(runtime__n_threads=3)) == Request(1, 3, 0)
    assert Share().request(config(runtime__device="cuda")) == Request(1, 1, 1)
    assert Share(cpus_per_worker=2).request(config(train__n_workers=4, runtime__device="cuda")) == Request(4, 2, 1)
    assert Share(gpus_per_trial=0.25).request(config(runtime__device="cuda")).driver == {"CPU": 1, "GPU": 0.25}
    assert Share(gpus_per_trial=2).request(config(train__n_workers=2, runtime__device="cuda")).worker["GPU"] == 1


def test_workers_of_a_trial_are_named_once():
    assert add_workers({"train.epochs": 3}, 2) == {"train.epochs": 3, "train.n_workers": 2}
    assert add_workers({"train.n_workers": 2}, None) == add_workers({"train.n_workers": 2}, 2)
    with pytest.raises(ConfigError, match="give one of them"):
        add_workers({"train.n_workers": 3}, 2)


def test_a_baseline_has_one_worker():
    assert Share().request(config(method="spage", train__n_workers=2)).n_workers == 1


@pytest.mark.parametrize(
    ("gpus", "values", "message"),
    [
        (0.5, {"runtime.device": "cuda", "train.n_workers": 2}, "expected 2, or leave it out"),
        (2, {"runtime.device": "cuda"}, "give --workers-per-trial as well"),
        (1, {}, "needs --set runtime.device=cuda; found cpu"),
    ],
)
def test_gpus_that_no_worker_could_use_are_refused(gpus, values, message):
    with pytest.raises(ConfigError, match=message):
        Share(gpus_per_trial=gpus).request(Config().with_values(values))


@pytest.mark.parametrize(
    ("request_", "capacity", "asked", "expected"),
    [
        (Request(1, 1), Capacity((Node(2),)), None, 2),
        (Request(1, 1), Capacity((Node(2),)), 8, 2),
        (Request(2, 1), Capacity((Node(2),)), None, 1),  # two drivers would leave neither its workers
        (Request(2, 1), Capacity((Node(9),)), None, 4),
        (Request(2, 1), Capacity((Node(9),)), 3, 3),
        (Request(1, 1, 0.25), ONE_GPU_MACHINE, None, 4),
        (Request(1, 1, 0.1), Capacity((Node(64, 1),)), None, 10),
        (Request(1, 4, 0.25), ONE_GPU_MACHINE, None, 2),
        (Request(2, 3), Capacity((Node(4), Node(4), Node(4))), None, 1),  # 12 CPUs, yet a worker on each node alone
    ],
)
def test_no_more_trials_run_than_fit(request_, capacity, asked, expected):
    assert count_concurrent([request_], capacity, asked) == expected


def test_the_largest_trial_decides():
    requests = [Request(1, 1), Request(3, 1), Request(2, 1)]
    assert count_concurrent(requests, Capacity((Node(7),)), None) == 2


@pytest.mark.parametrize(("n_workers", "cpus", "total"), list(itertools.product((2, 3, 5), (0.25, 1, 2.5), (2, 7, 16))))
def test_what_runs_at_a_time_never_exceeds_what_there_is(n_workers, cpus, total):
    request = Request(n_workers, cpus)
    if n_workers * cpus > total:
        with pytest.raises(ResourceError):
            count_concurrent([request], Capacity((Node(total),)), None)
        return
    n = count_concurrent([request], Capacity((Node(total),)), None)
    assert n * (DRIVER_CPUS + n_workers * request.worker["CPU"]) <= total
    assert (n + 1) * n_workers * cpus > total  # and no slot is left unused


@pytest.mark.parametrize(
    ("request_", "capacity", "message"),
    [
        (
            Request(3, 1),
            Capacity((Node(2),)),
            "3 workers of 1 CPU and 0 GPUs, 3 CPUs and 0 GPUs in all, but there",
        ),
        (Request(1, 1, 1), Capacity((Node(2),)), "asks for 1 CPU and 1 GPU, but there are 2 CPUs and 0 GPUs: it could"),
        (Request(1, 4), Capacity((Node(2), Node(3))), "2 nodes have 5 CPUs and 0 GPUs, one of them at most 3 CPUs"),
        (
            Request(4, 1, 1),
            Capacity((Node(4),), True, Node(32, 2), ((2, Node(16, 1)),)),
            "it can grow to 32 CPUs and 2 GPUs: it could",
        ),
        (Request(1, 9), Capacity((Node(4),), True, Node(32), ((4, Node(8)),)), "it can grow to 32 CPUs"),
    ],
)
def test_what_can_never_run_is_refused_with_the_numbers(request_, capacity, message):
    with pytest.raises(ResourceError, match=message):
        count_concurrent([request_], capacity, None)


def test_a_cluster_that_can_grow_holds_what_it_can_grow_to():
    growing = Capacity((Node(0),), True, Node(8, 4), ((2, Node(4, 2)),))
    assert count_concurrent([Request(2, 1, 1)], growing, None) == 2
    assert count_concurrent([Request(1, 1)], growing, None) is None  # Tune asks for as much as it gets
    assert count_concurrent([Request(1, 1)], growing, 5) == 5


@pytest.mark.parametrize(
    ("request_", "types", "expected"),
    [
        (Request(2, 3), ((3, Node(4)),), 1),  # 12 CPUs, yet a worker on each node alone
        (Request(2, 3), ((1, Node(4)), (2, Node(7))), 2),  # 1 + 2 * 2 workers
        (Request(2, 1, 1), ((2, Node(8, 1)), (4, Node(16, 0))), 1),
    ],
)
def test_workers_on_a_growing_cluster_are_counted_node_by_node(request_, types, expected):
    limit = Node(sum(n * node.cpus for n, node in types), sum(n * node.gpus for n, node in types))
    assert count_concurrent([request_], Capacity((Node(0),), True, limit, types), None) == expected


def test_a_worker_no_node_of_a_growing_cluster_holds_is_refused():
    growing = Capacity((Node(0),), True, Node(12), ((3, Node(4)),))
    with pytest.raises(ResourceError, match="it could never run"):
        count_concurrent([Request(2, 5)], growing, None)
    with pytest.raises(ResourceError, match="it could never run"):
        count_concurrent([Request(4, 3)], growing, None)  # 12 CPUs, on which three fit


def test_node_groups_of_a_growing_cluster_may_have_no_bound():
    groups = [
        NodeGroupConfig(name="gpu", resources={"CPU": 8, "GPU": 1}, max_count=3),
        NodeGroupConfig(name="none", resources={"CPU": 64}, max_count=0),
        NodeGroupConfig(name="endless", resources={"CPU": 4}, max_count=-1),
    ]
    types = _read_node_groups(groups)
    assert types == ((3, Node(8, 1)), (sys.maxsize, Node(4, 0)))
    growing = Capacity((Node(0),), True, Node(100, 3), types)  # the whole cluster may have a bound of its own
    assert count_concurrent([Request(2, 1, 1)], growing, None) == 1
    assert count_concurrent([Request(2, 4)], growing, None) == 12


def test_workers_wait_for_room_for_days():
    assert float(GROUP_DEFAULTS["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"]) >= 3 * 24 * 3600


def test_a_cluster_with_unknown_growth_is_waited_for():
    said = []
    growing = Capacity((Node(1),), True)
    assert count_concurrent([Request(2, 1)], growing, None, said.append) == 1
    assert "trials wait until it has grown" in said[0]
    assert count_concurrent([Request(2, 1)], growing, 6, said.append) == 6


def test_the_description_of_a_cluster_tells_what_it_can_grow_to():
    types = {
        "head": {"resources": {"CPU": 4}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1}, "max_workers": 3},
        "none": {"resources": {"CPU": 64}, "max_workers": 0},
    }
    found = _read_bootstrap((Node(4),), {"head_node_type": "head", "available_node_types": types})
    assert (found.limit, found.types) == (Node(24, 3), ((3, Node(8, 1)),))
    types["gpu"]["resources"] = {}
    assert _read_bootstrap((Node(4),), {"head_node_type": "head", "available_node_types": types}).limit is None


def test_this_machine_has_cpus():
    assert measure_machine().n_cpus >= 1
