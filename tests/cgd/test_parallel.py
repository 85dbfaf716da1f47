"""Training by several processes: the same gradients, losses and predictions as by one, to the order of sums."""

import socket
from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from cgd.config import Config
from cgd.errors import ConfigError, TrainingDiverged
from cgd.evaluation import evaluate, trial_fingerprint
from cgd.memory import peak_memory_mb
from cgd.model.network import Network
from cgd.model.reference import Reference
from cgd.parallel import ALONE, Parallel, pieces
from cgd.training.trainer import Trainer

# float32 sums in another order, amplified by training
SCORE_TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}
KINDS = {
    "gene": {},
    "gene, joint": {"model.decoder": "joint"},
    "latent": {"model.tokens": "latent", "model.token_dim": 2},
    "latent, joint": {"model.tokens": "latent", "model.token_dim": 2, "model.decoder": "joint"},
    "several timesteps, blank": {"diffusion.timesteps_per_step": 2, "train.condition_drop": 0.4},
}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _enter(rank, size, port, body, arguments, results):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    try:
        results.put((rank, body(Parallel.from_process_group(), *arguments)))
        dist.barrier()
    finally:
        dist.destroy_process_group()


def together(size, body, *arguments):
    """What `body(parallel, *arguments)` returns in each of `size` processes, by rank."""
    context = mp.get_context("spawn")
    results = context.SimpleQueue()
    processes = mp.spawn(
        _enter, (size, free_port(), body, arguments, results), nprocs=size, join=False, start_method="spawn"
    )
    found = {}
    while len(found) < size:
        if results.empty():
            processes.join(timeout=0.1)  # raises what a process raised
        else:
            rank, value = results.get()
            found[rank] = value
    while not processes.join():
        pass
    return [found[rank] for rank in range(size)]


def trainer_of(config, hidden, parallel, **how):
    reference = Reference.build(hidden.visible, config)
    torch.manual_seed(0)
    network = Network(config, hidden.visible.x_st.shape[1], hidden.visible.x_sc.shape[1])
    torch.nn.init.normal_(network.cat.head.weight, std=0.1)
    return Trainer(network, reference, lambda: {"val_pcc": 0.0}, parallel=parallel, **how)


def gradients(parallel, config, hidden):
    """Loss and gradient of the first batch, before anything of it is clipped.

    Without pre-training: Adam divides by the size of a gradient, and so makes a step of the rounding of one that is 0.
    """
    config = config.with_values({"train.pretrain_epochs": 0})
    trainer = trainer_of(config, hidden, parallel)
    trainer._prepare()
    diffusion, reconstruction = trainer._backward()
    parameters = trainer._select_trained()
    parallel.add_up_gradients(parameters.values())
    parallel.add_up([diffusion, reconstruction])
    found = {name: p.grad.numpy() for name, p in parameters.items() if p.grad is not None}
    return float(diffusion), float(reconstruction), found


# ---- shares -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(8, 2), (7, 2), (8, 3), (3, 3), (1, 1), (5, 8)])
def test_shares_are_disjoint_complete_and_even(n, size):
    shares = [Parallel(rank, size).share(n) for rank in range(size)]
    assert [i for share in shares for i in range(n)[share]] == list(range(n))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
    assert all(one.stop == other.start for one, other in pairwise(shares))


def test_pieces_of_a_share_are_the_share():
    parts = pieces(slice(3, 10), 3)
    assert [(part.start, part.stop) for part in parts] == [(3, 5), (5, 7), (7, 10)]


def test_more_workers_than_sequences_are_refused():
    with pytest.raises(ConfigError, match=r"train: n_workers \(9\) must not exceed batch_size \(4\)"):
        Config().with_values({"train.n_workers": 9})


def test_a_process_alone_needs_no_process_group():
    tensor = torch.ones(3)
    ALONE.add_up([tensor])
    ALONE.add_up_gradients([torch.nn.Parameter(tensor)])
    assert torch.equal(tensor, torch.ones(3))
    assert ALONE.from_main("x") == "x"
    assert not dist.is_initialized()


# ---- two processes ------------------------------------------------------------------------------------------------


def _scores(parallel, config, prepared, split, folder):
    epochs = []
    found = evaluate(config, prepared, split, parallel=parallel, on_epoch=epochs.append, checkpoint_root=folder)
    if found is None:
        return None, epochs, None
    return found.per_gene.drop(columns="gene").to_numpy(float), epochs, found.summary


def _memory(parallel, config, prepared, split):
    found = evaluate(config, prepared, split, parallel=parallel)
    return found and found.summary["peak_memory_mb"], peak_memory_mb()


def _validated(parallel, config, prepared, split):
    found = evaluate(config, prepared, split, scored="validation", parallel=parallel)
    return None if found is None else found.summary["val_pcc"]


def _diverges(parallel, config, prepared, split):
    try:
        evaluate(config, prepared, split, parallel=parallel)
    except TrainingDiverged as error:
        return str(error)
    return None


def _stop_after_two(metrics):
    if metrics["epoch"] == 2:
        raise InterruptedError


def _all_of_it(parallel, jobs):
    return {name: body(parallel, *arguments) for name, (body, arguments) in jobs.items()}


@pytest.fixture(scope="module")
def two(tiny, tmp_path_factory):
    """What each of two processes returned, by job: they are started once, for all tests."""
    folder = tmp_path_factory.mktemp("checkpoints")
    where, epochs = (tiny.prepared, tiny.split), {"train.n_workers": 2, "train.epochs": 3}
    jobs = {name: (gradients, (uneven(tiny, values), tiny.hidden(values))) for name, values in KINDS.items()}
    jobs["scores"] = (_scores, (tiny.config(epochs), *where, folder / "scores"))
    jobs["memory"] = (_memory, (tiny.config(), *where))
    jobs["validation"] = (_validated, (tiny.config(), *where))
    jobs["divergence"] = (_diverges, (tiny.config(DIVERGES), *where))
    with pytest.raises(InterruptedError):  # begun by one process, to be continued by two
        evaluate(tiny.config({"train.epochs": 4}), *where, on_epoch=_stop_after_two, checkpoint_root=folder / "resumed")
    resumed = tiny.config({"train.epochs": 4, "train.n_workers": 2})
    jobs["resumed"] = (_scores, (resumed, *where, folder / "resumed"))
    return together(2, _all_of_it, jobs)


def uneven(tiny, values):
    return tiny.config({**values, "train.batch_size": 3})  # shares of 1 and 2 sequences


DIVERGES = {"train.learning_rate": 1e30, "train.epochs": 3, "train.warmup_fraction": 0.0}


def assert_same_gradients(found, expected):
    """Tolerance: relative 1e-4; absolute 1e-6, and 1e-5 of the largest of the parameter."""
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
    assert found[2].keys() == expected[2].keys()
    for name, value in expected[2].items():
        one, other = torch.from_numpy(found[2][name]), torch.from_numpy(value)
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6 + 1e-5 * float(other.abs().max()))


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_have_the_gradients_of_one(tiny, two, kind):
    expected = gradients(ALONE, uneven(tiny, KINDS[kind]), tiny.hidden(KINDS[kind]))
    for found in two:
        assert_same_gradients(found[kind], expected)


def test_two_workers_score_as_one_and_the_first_alone_reports(tiny, two, tmp_path):
    (scores, epochs, summary), (nothing, silent, _) = (found["scores"] for found in two)
    config = tiny.config({"train.epochs": 3})
    expected, alone_epochs, alone = _scores(ALONE, config, tiny.prepared, tiny.split, tmp_path)
    assert nothing is None
    assert silent == []
    assert [metrics["epoch"] for metrics in epochs] == [1, 2, 3]
    for metrics, same in zip(epochs, alone_epochs, strict=True):
        for key in ("train_loss", "gradient_norm", "val_pcc", "learning_rate"):
            assert metrics[key] == pytest.approx(same[key], rel=1e-3, abs=1e-4), key
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), equal_nan=True, **SCORE_TOLERANCE)
    assert summary["epochs"] == alone["epochs"]


def test_what_one_worker_began_two_finish(tiny, two):
    """The number of workers is not part of the fingerprint, so its checkpoints are found."""
    config = tiny.config({"train.epochs": 4})
    other = config.with_values({"train.n_workers": 2})
    assert trial_fingerprint(other, tiny.prepared, tiny.split) == trial_fingerprint(config, tiny.prepared, tiny.split)
    scores, epochs, summary = two[0]["resumed"]
    expected = evaluate(config, tiny.prepared, tiny.split).per_gene.drop(columns="gene").to_numpy(float)
    assert [metrics["epoch"] for metrics in epochs] == [1, 2, 3, 4]
    torch.testing.assert_close(torch.tensor(scores), torch.tensor(expected), equal_nan=True, **SCORE_TOLERANCE)
    assert summary["epochs"] == 4


def test_the_memory_of_a_trial_is_that_of_all_its_processes(two):
    (together, one), (_, other) = (found["memory"] for found in two)
    assert together == pytest.approx(one + other, rel=0.05)


def test_a_loss_that_is_not_finite_stops_every_worker(two):
    one, other = (found["divergence"] for found in two)
    assert one == other
    assert "training diverged in epoch" in one


def test_a_search_scores_its_samples_with_two_workers_too(tiny, two):
    value, nothing = (found["validation"] for found in two)
    assert nothing is None
    alone = evaluate(tiny.config(), tiny.prepared, tiny.split, scored="validation")
    assert value == pytest.approx(alone.summary["val_pcc"], abs=1e-3)


# ---- pieces of a batch --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", KINDS.values(), ids=KINDS.keys())
def test_a_batch_in_pieces_has_the_gradient_of_the_whole(tiny, values):
    hidden = tiny.hidden(values)
    whole, parts = (
        gradients(ALONE, tiny.config({**values, "runtime.micro_batches": n, "train.batch_size": 5}), hidden)
        for n in (1, 3)
    )
    assert_same_gradients(parts, whole)


# ---- precision and compilation ------------------------------------------------------------------------------------


def step_with(tiny, values):
    """Loss and gradient (one vector) of a batch, on the CPU."""
    values = {"train.batch_size": 16, "model.init": "random", "train.pretrain_epochs": 0, **values}
    trainer = trainer_of(tiny.config(values), tiny.hidden(), ALONE)
    trainer.network.to(trainer.network.config.runtime.device)
    if trainer.network.config.runtime.compile:
        trainer.network.cat.compile_blocks()
    trainer._prepare()
    loss = float(trainer._backward()[0])
    gradients = [p.grad.flatten().cpu() for p in trainer._select_trained().values() if p.grad is not None]
    return loss, torch.cat(gradients)


def assert_close_to_fp32(tiny, values, tolerance):
    """Loss, and distance between the gradients by the length of the exact one: both relative.

    Without the SVD, whose signs are the library's choice, and without Adam, which enlarges rounding.
    """
    (loss, gradient), (exact_loss, exact) = step_with(tiny, values), step_with(tiny, {})
    assert loss == pytest.approx(exact_loss, rel=tolerance)
    assert (gradient - exact).norm() <= tolerance * exact.norm()


def test_bf16_is_close_to_fp32_and_not_the_same(tiny):
    values = {"train.precision": "bf16"}
    assert step_with(tiny, values)[0] != step_with(tiny, {})[0]
    assert_close_to_fp32(tiny, values, 0.02)


@pytest.mark.slow
def test_a_compiled_transformer_gives_the_same_loss_and_gradient(tiny):
    assert_close_to_fp32(tiny, {"runtime.compile": True}, 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(
    ("values", "tolerance"), [({}, 1e-4), ({"train.precision": "bf16"}, 0.02), ({"runtime.compile": True}, 1e-3)]
)
def test_a_gpu_gives_the_loss_and_gradient_of_the_cpu(tiny, values, tolerance):
    assert_close_to_fp32(tiny, {**values, "runtime.device": "cuda"}, tolerance)
