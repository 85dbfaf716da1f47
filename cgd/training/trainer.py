"""One training loop, for one process or several. It knows nothing of Ray: it reports through callbacks, resumes from a
folder, and is told which of the processes it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from cgd.config import TrainConfig
from cgd.errors import TrainingDiverged
from cgd.model.network import Network
from cgd.model.reference import Reference
from cgd.parallel import ALONE, Parallel, pieces
from cgd.random import derive_seed, make_generator
from cgd.training.checkpoint import CheckpointFolder, optimizer_tensors, restore_optimizer

EpochReport = Callable[[dict[str, float]], None]
Validate = Callable[[], dict[str, float]]  # `val_pcc` and, of draws, `val_crps`
_STREAMS = ("batch", "timestep", "noise", "latent", "condition")


@dataclass
class Progress:
    """Where training stands: everything but tensors that an exact resume needs."""

    epoch: int = 0
    best_score: float = -math.inf
    kept_epoch: int = 0  # 0: the network as it was before the first
    kept: dict[str, float] = field(default_factory=dict)  # what validation said of it
    history: list[dict[str, float]] = field(default_factory=list)
    earlier_seconds: float = 0.0  # of the epochs of earlier attempts


def learning_rate(step: int, n_steps: int, config: TrainConfig) -> float:
    """Linear warm-up, then a cosine from `learning_rate` to `final_lr_fraction` of it at the very last step."""
    n_warmup = int(config.warmup_fraction * n_steps)
    if step < n_warmup:
        return config.learning_rate * (step + 1) / n_warmup
    progress = (step - n_warmup) / max(n_steps - 1 - n_warmup, 1)
    floor = config.final_lr_fraction
    return config.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


class Trainer:
    """Trains a network on the visible genes.

    Parameters
    ----------
    network
        Initialised here, unless a checkpoint is resumed.
    reference
        Training data and what was derived from it.
    validate
        Called before the first epoch and after each with the averaged weights in place. The epoch that is kept is the
        one with the lowest `val_crps`; where there is none, the last whose `val_pcc` is as good as the best.
    on_epoch
        Called with the metrics of each epoch, on a resume with those of earlier epochs first.
    checkpoints
        Where to save after each epoch and to resume from; None keeps nothing.
    parallel
        This process among those that train the network. Rank 0 alone calls `on_epoch` and touches `checkpoints`;
        `validate` is called by all, and what rank 0 returns holds.
    """

    def __init__(
        self,
        network: Network,
        reference: Reference,
        validate: Validate,
        on_epoch: EpochReport | None = None,
        checkpoints: CheckpointFolder | None = None,
        parallel: Parallel = ALONE,
    ) -> None:
        self.network = network
        self.reference = reference
        self.validate = validate
        self.parallel = parallel
        self.on_epoch = on_epoch if on_epoch and parallel.is_main else (lambda metrics: None)
        self.checkpoints = checkpoints if parallel.is_main else None
        self.config = network.config.train
        self.joint = network.config.model.decoder == "joint"
        self.progress = Progress()
        seed = network.config.seed
        self.generators = {name: make_generator(seed, name) for name in _STREAMS}

    def initialise(self) -> Progress:
        """Set the network up and train nothing: for what needs no more than its centre."""
        self._initialise_autoencoder()
        self._fit_scales()
        return self.progress

    def fit(self) -> Progress:
        """Train to the last epoch or until validation gets worse for good; leave the averaged weights kept in place.

        Raises
        ------
        TrainingDiverged
            The loss or the gradient is not finite.
        """
        devices = [torch.cuda.current_device()] if self.network.config.runtime.device == "cuda" else []
        with torch.random.fork_rng(devices=devices):  # dropout draws from the global generators
            saved = self.parallel.from_main(self.checkpoints.load_newest() if self.checkpoints else None)
            if saved is None:
                self._prepare()
            else:
                self.network.load_state_dict(_select_part(saved[0], "network"))
            self.parallel.copy_from_main([*self.network.parameters(), *self.network.buffers()])
            self.optimizer = self._make_optimizer()
            self.average = {name: p.detach().clone() for name, p in self._select_trained().items()}
            self.kept = self._snapshot()
            if saved is not None:
                self._restore(*saved)
            else:
                self._judge()
            self._run()
        self._load(self.kept)
        return self.progress

    # ---- before the loop --------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        network = self.network
        self._initialise_autoencoder()
        optimizer = torch.optim.AdamW(network.autoencoder.parameters(), lr=self.config.pretrain_learning_rate)
        for _ in range(self.config.pretrain_epochs):
            optimizer.zero_grad()
            self._apply(optimizer, list(network.autoencoder.parameters()), [self._reconstruct(weight=1.0)])
        self._fit_scales()
        if not self.joint:
            network.autoencoder.requires_grad_(False)

    def _initialise_autoencoder(self) -> None:
        network, reference = self.network, self.reference
        network.autoencoder.initialise(
            reference.x_st, reference.x_sc_train, from_svd=network.config.model.init == "svd"
        )
        # the signs of an SVD differ between machines
        self.parallel.copy_from_main([*network.autoencoder.parameters(), *network.autoencoder.buffers()])

    def _fit_scales(self) -> None:
        with torch.no_grad():
            z = self.network.autoencoder.encode_st(self.reference.x_st)[0]
            code = self.network.autoencoder.encode_sc(self.reference.x_sc_train)[0]
            self.network.fit_scales(z, code, self.reference.residual(z))

    def _select_trained(self) -> dict[str, torch.nn.Parameter]:
        """The parameters the loop trains: all of them, or all but the frozen autoencoder's."""
        return {
            name: p for name, p in self.network.named_parameters() if self.joint or not name.startswith("autoencoder.")
        }

    def _make_optimizer(self) -> torch.optim.AdamW:
        parameters = self._select_trained().values()
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},  # biases and norms
        ]
        return torch.optim.AdamW(groups, lr=self.config.learning_rate)

    # ---- the loop ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        for metrics in self.progress.history:
            self.on_epoch(metrics)
        while self.progress.epoch < self.config.epochs and not self._is_over():
            metrics = self._run_epoch()
            self.progress.history.append(metrics)
            if self.checkpoints:
                self._save()
            self.on_epoch(metrics)

    def _is_over(self) -> bool:
        return self.progress.epoch - self.progress.kept_epoch >= self.config.patience

    def _run_epoch(self) -> dict[str, float]:
        start = time.perf_counter()
        self.network.train()
        # seeded again at every epoch, so that a resumed one drops what the interrupted one would have
        torch.manual_seed(derive_seed(self.network.config.seed, "dropout", self.parallel.rank, self.progress.epoch))
        if self.joint:  # the encoder moves, and with it the scale of the latents
            self._fit_scales()
        losses = [self._run_step(i) for i in range(self.config.steps_per_epoch)]
        self.progress.epoch += 1
        validation = self._judge()
        totals = {key: sum(loss[key] for loss in losses) / len(losses) for key in losses[0]}
        return {
            "epoch": self.progress.epoch,
            **totals,
            **validation,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "epoch_seconds": time.perf_counter() - start,
        }

    def _run_step(self, index: int) -> dict[str, float]:
        config = self.config
        step = self.progress.epoch * config.steps_per_epoch + index
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, config.epochs * config.steps_per_epoch, config)
        self.optimizer.zero_grad()
        diffusion, reconstruction = self._backward()
        norm = self._apply(self.optimizer, list(self._select_trained().values()), [diffusion, reconstruction])
        with torch.no_grad():
            for name, p in self._select_trained().items():
                self.average[name].lerp_(p, 1 - config.ema_decay)
        loss = diffusion + config.reconstruction_weight * reconstruction
        return {"train_loss": loss.item(), "diffusion_loss": diffusion.item(), "gradient_norm": norm.item()}

    def _backward(self) -> tuple[Tensor, Tensor]:
        """Leave the gradient of this process's share of a batch; its diffusion and reconstruction loss."""
        reference = self.reference
        table = reference.training_table(self.network, self.generators["latent"], with_gradient=self.joint)
        draw = self.network.draw(table, self.generators)
        diffusion = torch.zeros((), device=table.z.device)
        for rows in self._pieces(self.config.batch_size):
            part = self.network.diffusion_loss(table, reference.ridge_lambda, draw.part(rows))
            part.backward(retain_graph=self.joint)  # the table serves all pieces
            diffusion += part.detach()
        if not self.joint:
            return diffusion, torch.zeros_like(diffusion)
        return diffusion, self._reconstruct(self.config.reconstruction_weight)

    def _reconstruct(self, weight: float) -> Tensor:
        """Leave the gradient of `weight` times this process's share of the autoencoder's loss; the share."""
        x_st, x_sc = self.reference.x_st, self.reference.x_sc_train
        autoencoder, total = self.network.autoencoder, x_st.new_zeros(())
        noise = tuple(autoencoder.draw(len(x_st), self.generators["latent"]) for _ in range(2))  # one for each head
        for rows in self._pieces(len(x_st)):
            part = autoencoder.loss(x_st, x_sc, self.config.kl_weight, noise, rows, self.reference.misfit)
            (weight * part).backward()
            total += part.detach()
        return total

    def _pieces(self, n: int) -> list[slice]:
        """This process's share of `n` items, in as many pieces as are computed one after the other."""
        found = pieces(self.parallel.share(n), self.network.config.runtime.micro_batches)
        return [piece for piece in found if piece.stop > piece.start]

    def _apply(
        self, optimizer: torch.optim.Optimizer, parameters: list[torch.nn.Parameter], losses: list[Tensor]
    ) -> Tensor:
        """Add up the processes' gradients and `losses`, take a step, and return the norm of the gradient."""
        self.parallel.add_up_gradients(parameters)
        self.parallel.add_up(losses)
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip)  # of the whole batch's gradient
        self._check(torch.stack(losses).sum(), norm)
        optimizer.step()
        return norm

    def _check(self, loss: Tensor, gradient_norm: Tensor) -> None:
        if not (torch.isfinite(loss) and torch.isfinite(gradient_norm)):
            raise TrainingDiverged(
                f"training diverged in epoch {self.progress.epoch + 1}: loss {loss.item()}, gradient norm "
                f"{gradient_norm.item()}; lower train.learning_rate or train.gradient_clip"
            )

    def _judge(self) -> dict[str, float]:
        """Validate the averaged weights, and keep them if they are good enough."""
        progress, validation = self.progress, self.parallel.from_main(self._validate())
        if "val_crps" in validation:
            score, tolerance = -validation["val_crps"], 0.0
        else:
            score, tolerance = validation["val_pcc"], self.config.tolerance
        progress.best_score = max(score, progress.best_score)
        if score >= progress.best_score - tolerance:
            progress.kept_epoch, progress.kept = progress.epoch, validation
            self.kept = self._snapshot()
        return validation

    def _validate(self) -> dict[str, float]:
        """What validation says of the averaged weights."""
        current = {name: p.detach().clone() for name, p in self._select_trained().items()}
        self._load(self.average)
        self.network.eval()
        validation = self.validate()
        self._load(current)
        return validation

    # ---- state ------------------------------------------------------------------------------------------------------

    def _snapshot(self) -> dict[str, Tensor]:
        """Copy of the averaged weights and of the scale of the latents that goes with them."""
        scales = dict(self.network.named_buffers(recurse=False))
        return {name: tensor.clone() for name, tensor in {**self.average, **scales}.items()}

    @torch.no_grad()
    def _load(self, weights: dict[str, Tensor]) -> None:
        places = {**self._select_trained(), **dict(self.network.named_buffers(recurse=False))}
        for name, tensor in weights.items():
            places[name].copy_(tensor)

    def _save(self) -> None:
        assert self.checkpoints is not None
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"average.{name}": tensor for name, tensor in self.average.items()}
        tensors |= {f"kept.{name}": tensor for name, tensor in self.kept.items()}
        tensors |= {f"generator.{name}": g.get_state() for name, g in self.generators.items()}
        tensors |= optimizer_tensors(self.optimizer)
        self.checkpoints.save(self.progress.epoch, tensors, vars(self.progress))

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        if not self.joint:
            self.network.autoencoder.requires_grad_(False)
        device = self.network.config.runtime.device
        self.average, self.kept = (
            {name: tensor.to(device) for name, tensor in _select_part(tensors, prefix).items()}
            for prefix in ("average", "kept")
        )
        restore_optimizer(self.optimizer, tensors)
        for name, stream in _select_part(tensors, "generator").items():
            self.generators[name].set_state(stream)
        self.progress = Progress(**state)
        self.progress.earlier_seconds = sum(metrics["epoch_seconds"] for metrics in self.progress.history)


def _select_part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
