"""The training loop: resume bit for bit, early stopping, the learning rate, and a loss that is not finite."""

import math

import pytest
import torch

from cgd.config import TrainConfig
from cgd.errors import CheckpointError, TrainingDiverged
from cgd.estimator import CausalGeD
from cgd.model.network import Network
from cgd.model.reference import Reference
from cgd.training.checkpoint import CheckpointFolder
from cgd.training.trainer import Trainer, learning_rate

RESUMED = {
    "plain": {},
    "joint": {"model.decoder": "joint"},
    "dropout": {"model.dropout": 0.3},
    "joint, dropout, latent": {"model.decoder": "joint", "model.dropout": 0.3, "model.tokens": "latent"},
    "deterministic, granger, joint": {
        "model.encoder": "deterministic",
        "ar.token_order": "granger",
        "model.decoder": "joint",
    },
    "several timesteps": {"diffusion.timesteps_per_step": 3, "diffusion.timestep_sampling": "adaptive"},
}


class Interrupted(Exception):
    pass


def fit(tiny, values, folder=None, stop_after=None):
    """Fit with checkpoints; `stop_after` an epoch, as if killed there. Returns the model and what it reported."""
    hidden, reported = tiny.hidden(values), []

    def on_epoch(metrics):
        reported.append(metrics)
        if metrics["epoch"] == stop_after:
            raise Interrupted

    model = CausalGeD(tiny.config(values))
    checkpoints = CheckpointFolder(folder, "trial") if folder else None
    if stop_after:
        with pytest.raises(Interrupted):
            model.fit_visible(hidden.visible, hidden.val, hidden.measured, on_epoch, checkpoints)
    else:
        model.fit_visible(hidden.visible, hidden.val, hidden.measured, on_epoch, checkpoints)
    return model, reported


def without_times(history):
    return [{key: value for key, value in metrics.items() if key != "epoch_seconds"} for metrics in history]


def predictions(model, genes):
    return model.predict_mean(genes).tobytes(), model.predict_draws(genes).tobytes()


def weights(model):
    return {name: tensor.numpy().tobytes() for name, tensor in model._fitted.network.state_dict().items()}


# ---- resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", RESUMED.values(), ids=RESUMED.keys())
def test_interrupted_training_ends_as_uninterrupted_does(tiny, tmp_path, values):
    """Bit for bit: predictions, draws, weights and history; stopped after each epoch in turn."""
    values = {**values, "train.epochs": 4}
    whole, reported = fit(tiny, values)
    for epoch in (1, 2, 3):
        fit(tiny, values, tmp_path, stop_after=epoch)
    torch.manual_seed(99)  # whatever else the process did in between
    resumed, reported_again = fit(tiny, values, tmp_path)
    assert [metrics["epoch"] for metrics in reported] == [1, 2, 3, 4]
    assert without_times(reported_again) == without_times(reported)
    assert without_times(resumed.progress.history) == without_times(whole.progress.history)
    assert predictions(resumed, tiny.split.test) == predictions(whole, tiny.split.test)
    assert weights(resumed) == weights(whole)


def test_checkpoints_change_no_number(tiny, tmp_path):
    one, other = fit(tiny, {})[0], fit(tiny, {}, tmp_path)[0]
    assert predictions(one, tiny.split.test) == predictions(other, tiny.split.test)


def test_resuming_from_the_one_before_a_damaged_checkpoint(tiny, tmp_path):
    values = {"train.epochs": 3}
    whole, _ = fit(tiny, values)
    fit(tiny, values, tmp_path, stop_after=2)
    (tmp_path / "epoch-00002" / "tensors.safetensors").write_bytes(b"damaged")
    resumed, reported = fit(tiny, values, tmp_path)
    assert [metrics["epoch"] for metrics in reported] == [1, 2, 3]
    assert weights(resumed) == weights(whole)


def test_a_finished_trial_is_not_trained_again(tiny, tmp_path, monkeypatch):
    whole, _ = fit(tiny, {}, tmp_path)
    monkeypatch.setattr(Trainer, "_run_epoch", lambda self: pytest.fail("trained again"))
    again, reported = fit(tiny, {}, tmp_path)
    assert len(reported) == 2
    assert weights(again) == weights(whole)


def test_checkpoints_of_another_trial_are_refused(tiny, tmp_path):
    fit(tiny, {}, tmp_path)
    hidden = tiny.hidden()
    with pytest.raises(CheckpointError, match="belongs to another trial than other"):
        CausalGeD(tiny.config()).fit_visible(
            hidden.visible, hidden.val, hidden.measured, None, CheckpointFolder(tmp_path, "other")
        )


def test_the_random_state_of_the_process_is_unused_and_unchanged(tiny):
    values = {"model.dropout": 0.3}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one, _ = fit(tiny, values)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    other, _ = fit(tiny, values)
    assert weights(one) == weights(other)


# ---- the loop -----------------------------------------------------------------------------------------------------


def make_trainer(tiny, scores=None, values=None, on_epoch=None, key="val_pcc"):
    """A trainer whose validation scores are given, and the averaged weights it had at each validation: before the
    first epoch, and after each."""
    config, visible = tiny.config(values), tiny.hidden().visible
    reference = Reference.build(visible, config)
    torch.manual_seed(0)
    network = Network(config, visible.x_st.shape[1], visible.x_sc.shape[1])
    seen = []

    def validate():
        seen.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
        score = scores[len(seen) - 1] if scores else 0.0
        return {"val_pcc": 0.5, key: score}

    return Trainer(network, reference, validate, on_epoch), seen


def test_training_stops_without_progress_and_keeps_best_weights(tiny):
    scores = [0.0, 0.1, 0.3, 0.2, 0.295, 0.1, 0.28, 0.1, 0.9]
    trainer, seen = make_trainer(tiny, scores, {"train.epochs": 50, "train.patience": 3, "train.tolerance": 0.01})
    progress = trainer.fit()
    assert (progress.epoch, progress.best_score) == (7, 0.3)
    assert (progress.kept_epoch, progress.kept) == (4, {"val_pcc": 0.295})  # within the tolerance, and later
    assert [metrics["val_pcc"] for metrics in progress.history] == scores[1:8]
    final = trainer.network.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[4].items())
    assert not all(torch.equal(final[name], tensor) for name, tensor in seen[7].items())


def test_the_epoch_with_the_lowest_crps_is_kept(tiny):
    """Whatever its PCC, and without a tolerance."""
    scores = [0.5, 0.4, 0.3, 0.3001, 0.31, 0.9, 0.1]
    values = {"train.epochs": 50, "train.patience": 3, "train.tolerance": 1.0}
    trainer, seen = make_trainer(tiny, scores, values, key="val_crps")
    progress = trainer.fit()
    assert (progress.epoch, progress.kept_epoch) == (5, 2)
    assert progress.kept == {"val_pcc": 0.5, "val_crps": 0.3}
    assert [metrics["val_crps"] for metrics in progress.history] == scores[1:6]
    final = trainer.network.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[2].items())


@pytest.mark.parametrize("key", ["val_pcc", "val_crps"])
def test_the_untrained_network_is_kept_where_training_harms(tiny, key):
    scores = [0.5, 0.4, 0.3] if key == "val_pcc" else [0.3, 0.4, 0.5]
    trainer, seen = make_trainer(tiny, scores, {"train.patience": 2, "train.epochs": 50}, key=key)
    progress = trainer.fit()
    assert (progress.epoch, progress.kept_epoch, progress.kept[key]) == (2, 0, scores[0])
    final = trainer.network.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[0].items())
    assert not all(torch.equal(final[name], tensor) for name, tensor in seen[1].items())


def test_without_epochs_the_network_is_judged_and_not_trained(tiny):
    trainer, seen = make_trainer(tiny, [0.2], {"train.epochs": 0})
    progress = trainer.fit()
    assert (progress.epoch, progress.kept_epoch, progress.kept, progress.history) == (0, 0, {"val_pcc": 0.2}, [])
    assert len(seen) == 1
    final = trainer.network.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[0].items())


def test_initialising_trains_nothing_and_sets_the_scales(tiny):
    trainer, seen = make_trainer(tiny)
    before = {name: p.detach().clone() for name, p in trainer.network.named_parameters()}
    progress = trainer.initialise()
    assert (progress.epoch, progress.kept, seen) == (0, {}, [])
    moved = {name for name, p in trainer.network.named_parameters() if not torch.equal(p, before[name])}
    assert {name.partition(".")[0] for name in moved} == {"autoencoder"}
    other, _ = make_trainer(tiny, values={"train.epochs": 0, "train.pretrain_epochs": 0})
    other.fit()
    for name, tensor in other.network.state_dict().items():
        assert torch.equal(trainer.network.state_dict()[name], tensor), name


@pytest.mark.parametrize(("n_samples", "is_trained"), [(0, False), (2, True)])
def test_a_centre_without_draws_needs_no_training(tiny, n_samples, is_trained):
    model, reported = fit(tiny, {"sampling.estimate": "center", "sampling.n_samples": n_samples})
    assert bool(reported) == is_trained
    assert (model.progress.epoch > 0) == is_trained


@pytest.mark.parametrize("decoder", ["frozen", "joint"])
def test_the_best_epoch_is_left_in_place_with_its_latent_scale(tiny, decoder):
    """The stored weights and the stored shift and scale must be of the same moment."""
    trainer, seen = make_trainer(tiny, [0.0, 0.9, 0.1, 0.1], {"train.epochs": 3, "model.decoder": decoder})
    trainer.fit()
    final = trainer.network.state_dict()
    assert [name for name, tensor in seen[1].items() if not torch.equal(final[name], tensor)] == []


def test_training_that_improves_runs_to_the_last_epoch(tiny):
    trainer, _ = make_trainer(tiny, [0.0, 0.1, 0.2, 0.3, 0.4], {"train.epochs": 4, "train.patience": 1})
    progress = trainer.fit()
    assert (progress.epoch, progress.kept_epoch, progress.kept["val_pcc"]) == (4, 4, 0.4)


def test_validation_sees_averaged_weights(tiny):
    """With ema_decay 0 the average is the weights themselves; with 0.9 it lags behind."""
    final = []
    for decay in (0.0, 0.9):
        trainer, seen = make_trainer(tiny, values={"train.ema_decay": decay, "train.epochs": 1})
        start = trainer.network.cat.norm.weight.detach().clone()
        trainer.fit()
        final.append((seen[1]["cat.norm.weight"] - start).abs().mean())
    assert 0 < final[1] < 0.5 * final[0]


@pytest.mark.parametrize("decoder", ["frozen", "joint"])
def test_the_autoencoder_trains_after_its_start_only_when_joint(tiny, decoder):
    after_start = {}

    def on_epoch(metrics):
        if metrics["epoch"] == 1:
            after_start.update({n: p.detach().clone() for n, p in trainer.network.autoencoder.named_parameters()})

    trainer, _ = make_trainer(tiny, values={"model.decoder": decoder, "train.epochs": 3}, on_epoch=on_epoch)
    trainer.fit()
    moved = [n for n, p in trainer.network.autoencoder.named_parameters() if not torch.equal(p, after_start[n])]
    assert bool(moved) == (decoder == "joint")


def test_the_report_of_an_epoch(tiny):
    reported = []
    trainer, _ = make_trainer(tiny, on_epoch=reported.append)
    trainer.fit()
    assert [metrics["epoch"] for metrics in reported] == [1, 2]
    for metrics in reported:
        assert set(metrics) == {
            "epoch", "train_loss", "diffusion_loss", "gradient_norm", "val_pcc", "learning_rate", "epoch_seconds"
        }  # fmt: skip
        assert all(math.isfinite(value) for value in metrics.values())
        assert metrics["train_loss"] == metrics["diffusion_loss"]
    joint, _ = make_trainer(tiny, values={"model.decoder": "joint"})
    assert all(metrics["train_loss"] > metrics["diffusion_loss"] for metrics in joint.fit().history)


@pytest.mark.parametrize("tokens", ["gene", "latent"])
def test_training_lowers_the_loss(tiny, tokens):
    values = {
        "model.tokens": tokens,
        "model.center": "none",
        "train.rotate": False,
        "train.mixture_size": 1,
        "train.epochs": 10,
        "train.steps_per_epoch": 10,
        "train.learning_rate": 0.01,
        "train.batch_size": 8,
    }
    history = make_trainer(tiny, [0.1 * i for i in range(11)], values)[0].fit().history
    assert history[-1]["diffusion_loss"] < 0.9 * history[0]["diffusion_loss"]


# ---- the learning rate --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_steps", [1, 2, 3, 20, 300])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.99])
def test_the_learning_rate_is_never_zero_and_ends_at_its_floor(n_steps, warmup):
    config = TrainConfig(learning_rate=0.1, warmup_fraction=warmup, final_lr_fraction=0.05)
    rates = [learning_rate(step, n_steps, config) for step in range(n_steps)]
    assert min(rates) > 0
    assert max(rates) <= 0.1 + 1e-12
    n_warmup = int(warmup * n_steps)
    assert rates[:n_warmup] == sorted(rates[:n_warmup])
    assert rates[n_warmup:] == sorted(rates[n_warmup:], reverse=True)
    assert rates[n_warmup] == pytest.approx(0.1)
    if n_steps - n_warmup > 1:
        assert rates[-1] == pytest.approx(0.005)


def test_the_last_step_of_training_is_taken_at_the_floor(tiny):
    history = make_trainer(tiny, values={"train.final_lr_fraction": 0.2})[0].fit().history
    assert history[-1]["learning_rate"] == pytest.approx(0.2 * 5e-4)


# ---- divergence ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_with_what_to_lower(tiny):
    with pytest.raises(
        TrainingDiverged, match=r"in epoch 1: loss .*lower train\.learning_rate or train\.gradient_clip"
    ):
        fit(tiny, {"train.learning_rate": 1e30, "train.epochs": 3, "train.warmup_fraction": 0.0})


@pytest.mark.parametrize("decoder", ["frozen", "joint"])
def test_a_nan_loss_raises_before_the_weights_are_touched(tiny, monkeypatch, decoder):
    trainer, _ = make_trainer(tiny, values={"model.decoder": decoder, "train.epochs": 3})
    original, calls = trainer.network.diffusion_loss, []

    def nan_in_the_third_step(*arguments):
        calls.append({name: p.detach().clone() for name, p in trainer.network.named_parameters()})
        return original(*arguments) * (torch.nan if len(calls) == 3 else 1.0)

    monkeypatch.setattr(trainer.network, "diffusion_loss", nan_in_the_third_step)
    with pytest.raises(TrainingDiverged, match="in epoch 2: loss nan"):
        trainer.fit()
    assert all(torch.equal(p, calls[2][name]) for name, p in trainer.network.named_parameters())


def test_a_diverging_autoencoder_is_caught_too(tiny):
    with pytest.raises(TrainingDiverged):
        fit(tiny, {"train.pretrain_learning_rate": 1e30, "train.pretrain_epochs": 5})
