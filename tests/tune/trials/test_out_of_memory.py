"""A trial that runs out of GPU memory: smaller pieces of its batches, the same numbers, and a word on its run."""

import pytest
import ray
import torch
from ray import tune as ray_tune

from cgd.training.trainer import Trainer
from tune.cluster.resources import Request
from tune.trials.messages import Epoch, from_report
from tune.trials.out_of_memory import OutOfGPUMemory, retry_with_less_memory
from tune.trials.spec import Job, Replicate
from tune.trials.trial import Work, run_trial

ONE = Request(1, 1)


@pytest.fixture
def memory_for(monkeypatch):
    """Let training steps run out of memory unless batches are cut into `pieces` or more."""

    def limit(pieces, epoch=0):
        step = Trainer._run_step

        def run_step(trainer, index):
            if trainer.progress.epoch >= epoch and trainer.network.config.runtime.micro_batches < pieces:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return step(trainer, index)

        monkeypatch.setattr(Trainer, "_run_step", run_step)

    return limit


@pytest.fixture
def run(tiny, tmp_path_factory, monkeypatch):
    """Run a trial as the Tune function does, with checkpoints of its own; what it reports."""

    def call(values=None, request=ONE):
        config = tiny.config({"train.batch_size": 4, **(values or {})})
        messages = []
        monkeypatch.setattr(ray_tune, "report", lambda report: messages.append(from_report(report)))
        monkeypatch.setattr(ray, "get", lambda reference: reference)
        monkeypatch.setattr(Work, "request", lambda work, config: request)
        replicate = Replicate("tiny", 0, 0, tiny.split, "tiny")
        work = Work("test", [replicate], {"tiny": tiny.prepared}, tmp_path_factory.mktemp("checkpoints"))
        run_trial(Job("0" * 16, config, (0,)).to_params(), work)
        return messages

    return call


def test_pieces_get_smaller_until_they_fit_and_the_run_says_so(run, memory_for):
    whole = run()[-1]
    memory_for(pieces=3)
    pieces = run()[-1]
    assert whole.tags == {}
    assert pieces.tags["cgd.out_of_memory_retries"] == "2"
    assert pieces.tags["cgd.micro_batches"] == "4"
    assert pieces.summary["test_pcc"] == pytest.approx(whole.summary["test_pcc"], abs=1e-4)


def test_a_retry_goes_on_from_the_last_epoch(run, memory_for):
    memory_for(pieces=2, epoch=1)
    messages = run()
    seconds = [message.metrics["epoch_seconds"] for message in messages if isinstance(message, Epoch)]
    assert seconds[0] == seconds[1]  # the first epoch is reported again as it was, not trained again
    assert messages[-1].summary["epochs"] == 2


def test_memory_that_never_suffices_is_the_trials_error(run, memory_for):
    memory_for(pieces=99)
    failure = run()[-1]
    assert failure.kind == "OutOfGPUMemory"
    assert "batches in 4 pieces, the most there can be: it used more memory than the GPU has" in failure.message


def test_a_trial_on_part_of_a_gpu_is_said_to_exceed_its_share(run, memory_for):
    memory_for(pieces=2)
    tags = run(request=Request(1, 1, 0.25))[-1].tags
    assert "more than its share of 0.25 of a GPU" in tags["cgd.out_of_memory"]


def test_workers_share_the_batch_so_there_are_fewer_pieces(tiny):
    tried = []

    def compute(config):
        tried.append(config.runtime.micro_batches)
        raise torch.OutOfMemoryError("none")

    config = tiny.config({"train.batch_size": 6, "train.n_workers": 2})
    with pytest.raises(OutOfGPUMemory):
        retry_with_less_memory(compute, config, Request(2, 1, 1))
    assert tried == [1, 2, 3]  # three sequences for each worker


def test_memory_that_another_process_took_is_tried_again_too(tiny):
    def compute(config):
        if config.runtime.micro_batches == 1:
            raise torch.AcceleratorError("CUDA error: out of memory")
        return config.runtime.micro_batches

    found, tags = retry_with_less_memory(compute, tiny.config({"train.batch_size": 4}), Request(1, 1, 0.25))
    assert (found, tags["cgd.out_of_memory_retries"]) == (2, "1")


def test_other_errors_and_other_methods_are_not_tried_again(tiny):
    def compute(config):
        calls.append(config.method)
        raise error

    calls, error = [], ValueError("wrong")
    with pytest.raises(ValueError, match="wrong"):
        retry_with_less_memory(compute, tiny.config(), ONE)
    error = torch.OutOfMemoryError("none")
    with pytest.raises(OutOfGPUMemory):
        retry_with_less_memory(compute, tiny.config({"method": "spage"}), ONE)
    assert calls == ["causalged", "spage"]
