"""Every hyper-parameter of a trial in one frozen, validated tree.

The defaults follow the paper (Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751) where it states a value, and
the validation genes of real pairs where it does not. `Config.fingerprint` names runs, checkpoints and caches.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cgd.errors import ConfigError, closest

CAUSALGED = "causalged"
BROUGHT = "brought:"  # begins the name of a method that is a file of predictions
_COMMON = ("method", "seed", "data", "split", "evaluation", "runtime")  # what a baseline reads

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]
Share = Annotated[float, Field(ge=0.0, lt=1.0)]
FractionOrAll = Annotated[float, Field(gt=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]


def _check_timestep_sampling(value: str) -> str:
    match = re.fullmatch(r"full|adaptive|1/([1-9]\d*)", value)
    if not match or match.group(1) == "1":
        raise ValueError("expected 'full', 'adaptive' or a fraction '1/n' with n >= 2")
    return value


TimestepSampling = Annotated[str, AfterValidator(_check_timestep_sampling)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class DataConfig(_Section):
    """Pre-processing (paper IV-A). No statistic here uses the ST values of held-out genes."""

    min_genes_per_cell: NonNegativeInt | Literal["auto"] = Field(
        "auto",
        description="cells with fewer detected genes are dropped; auto: the paper's 500, or 2 % of the genes "
        "the reference measures where that is less (500 is 2 % of 25,000)",
    )
    min_genes_per_spot: PositiveInt = Field(1, description="spots with fewer detected visible genes are dropped")
    hvg_fraction: FractionOrAll = Field(
        0.25, description="share of the shared genes kept, most variable in scRNA-seq first"
    )
    min_panel: PositiveInt = Field(1000, description="never keep fewer genes than this (all of a smaller panel)")


class SplitConfig(_Section):
    """Which genes are trained on, validated on and tested on (paper IV-A: 70/20/10)."""

    val_fraction: Fraction = 0.2
    test_fraction: Fraction = Field(0.1, description="used when n_folds is 1; with k folds a fold is 1/k of the genes")
    n_folds: PositiveInt = Field(1, description="1: one split; k: each gene is a test gene in exactly one of k folds")
    seed: NonNegativeInt = 0

    @model_validator(mode="after")
    def _leaves_training_genes(self) -> SplitConfig:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("val_fraction + test_fraction must be below 1, so that training genes are left")
        return self


class ModelConfig(_Section):
    """Two-headed autoencoder and Causality Aware Transformer (paper III-B)."""

    tokens: Literal["gene", "latent"] = Field("gene", description="what a token is: a gene, or a slice of one latent")
    encoder: Literal["variational", "deterministic"] = "variational"
    decoder: Literal["frozen", "joint"] = "frozen"
    init: Literal["svd", "random"] = Field("svd", description="heads and decoder from the SVD of the training genes")
    hidden_dim: PositiveInt = Field(128, description="H: width behind each head")
    latent_dim: PositiveInt = Field(48, description="K: width of the latent")
    token_dim: PositiveInt = Field(4, description="latent values per token (tokens: latent)")
    n_condition_tokens: PositiveInt = Field(4, description="c: condition tokens in front of the sequence")
    latent_scaling: Literal["residual", "global", "per_dim"] = Field(
        "residual",
        description="what has unit variance: a dimension's error about the centre, the whole latent, a dimension",
    )
    width: PositiveInt = 128
    n_heads: PositiveInt = 4
    depth: PositiveInt = Field(3, description="transformer blocks")
    dropout: Share = 0.0
    attention_mask: Literal["causal", "full"] = Field(
        "causal", description="a token sees earlier AR steps, or all others"
    )
    kernel_sharpness: NonNegative = Field(
        2.0, description="s: the kernel over genes is linear + exp(-s (1 - r)), r their correlation; 0: linear alone"
    )
    kernel_components: Annotated[int, Field(ge=0, le=80)] = Field(
        30,
        description="principal components of the cells, from every gene of the scRNA-seq, along which the kernel "
        "compares genes a second time; 0: not at all",
    )
    likelihood: Literal["negative_binomial", "poisson", "gaussian"] = Field(
        "negative_binomial",
        description="what is measured of the rate that is decoded: counts, or (gaussian) the decoded value itself",
    )
    center: Literal["ridge", "none"] = Field(
        "ridge", description="what the diffusion is centred on: kernel ridge from the clean context, or 0"
    )

    @model_validator(mode="after")
    def _shapes_fit(self) -> ModelConfig:
        if self.width % self.n_heads:
            raise ValueError(f"width ({self.width}) must be a multiple of n_heads ({self.n_heads})")
        if self.tokens == "latent" and self.latent_dim % self.token_dim:
            raise ValueError(f"latent_dim ({self.latent_dim}) must be a multiple of token_dim ({self.token_dim})")
        if self.latent_dim > self.hidden_dim:
            raise ValueError(f"latent_dim ({self.latent_dim}) must not exceed hidden_dim ({self.hidden_dim})")
        return self


class ARConfig(_Section):
    """Autoregressive steps (Algorithm 1) and the weight of each step in the loss."""

    decay: FractionOrAll = Field(0.8, description="alpha: AR step decay")
    max_weight: Positive = Field(1.0, description="loss weight of the first AR step")
    min_weight: Positive = Field(0.5, description="loss weight a last step of one token gets")
    token_order: Literal["random", "variance", "granger", "graph", "graph_reversed"] = Field(
        "random", description="which genes come first; graph: those that regulate, in a graph that the data carry"
    )

    @model_validator(mode="after")
    def _check_weights(self) -> ARConfig:
        if self.min_weight > self.max_weight:
            raise ValueError(f"min_weight ({self.min_weight}) must not exceed max_weight ({self.max_weight})")
        return self


class DiffusionConfig(_Section):
    """Forward process (Eq. 1-3) and the timesteps it is trained on (Table II)."""

    n_timesteps: Annotated[int, Field(ge=2)] = Field(2000, description="T")
    schedule: Literal["cosine", "linear", "quadratic"] = "cosine"
    prediction_type: Literal["x_start", "noise", "v"] = "x_start"
    timestep_sampling: TimestepSampling = Field("full", description="full, 1/n (evenly spaced), adaptive")
    per_step: Literal["shared", "independent"] = Field("independent", description="one timestep per sample or AR step")
    timesteps_per_step: PositiveInt = Field(1, description="timesteps drawn for each AR step of a sample")


class SamplingConfig(_Section):
    """Reverse process. The condition and the clean context are computed once per AR step."""

    estimate: Literal["posterior_mean", "draws", "center"] = Field(
        "posterior_mean",
        description="posterior_mean: E[x_start | pure noise, context]; draws: mean of n_samples draws; center: what "
        "the diffusion is about, without what it says",
    )
    sampler: Literal["ddpm", "ddim", "dpm_solver"] = "dpm_solver"
    n_steps: Annotated[int, Field(ge=2)] = Field(10, description="reverse steps (ddpm always takes all T)")
    n_samples: NonNegativeInt = Field(16, description="draws; their spread is the reported uncertainty")
    n_ensemble: PositiveInt = Field(4, description="noise draws and rotations the posterior mean is averaged over")
    n_ar_steps: PositiveInt = Field(1, description="AR steps at inference")
    center: Literal["blended", "refined", "ridge"] = Field(
        "blended",
        description="what a prediction is about (model.center: ridge). ridge: the training's own ridge in the latent; "
        "refined: the mean of four ridge regressions in expression space; blended: that and, as far as it helps with "
        "training genes left out, what the cells that a spot resembles express",
    )
    guidance: NonNegative = Field(1.0, description="classifier-free: 0 without condition, 1 with it, above 1 beyond")


class TrainConfig(_Section):
    """Optimisation. An epoch is `steps_per_epoch` batches."""

    n_workers: PositiveInt = Field(
        1,
        description="processes that share each batch out among themselves: the same numbers, except for dropout, whose "
        "masks each draws for itself; not part of the fingerprint, see runtime",
    )
    precision: Literal["fp32", "bf16"] = Field("fp32", description="of the transformer; everything else is fp32")
    epochs: NonNegativeInt = Field(16, description="at most; 0: the network stays untrained")
    steps_per_epoch: PositiveInt = 10
    batch_size: PositiveInt = Field(4, description="panels (tokens: gene) or genes (tokens: latent) per batch")
    panel_size: Annotated[int, Field(ge=2)] = Field(256, description="genes per panel (tokens: gene)")
    context_share: Share = Field(
        0.7,
        description="share of a panel that is context alone, as measured genes are of a prediction (tokens: gene)",
    )
    learning_rate: Positive = 5e-4
    weight_decay: NonNegative = 0.01
    warmup_fraction: Share = 0.05
    final_lr_fraction: FractionOrAll = Field(0.05, description="never 0: alive to the end")
    gradient_clip: Positive = 1.0
    ema_decay: Share = 0.99
    patience: PositiveInt = Field(6, description="epochs that are not kept, one after the other, before stopping")
    tolerance: NonNegative = Field(
        0.002, description="without draws, an epoch less than this below the best validation PCC is kept"
    )
    rotate: bool = Field(False, description="random orthogonal rotation of the ST latent per panel (tokens: gene)")
    mixture_size: PositiveInt = Field(1, description="at most this many genes mixed into one token; 1: no mixing")
    condition_drop: Share = Field(0.0, description="share of training sequences whose condition is a learned blank")
    pretrain_epochs: NonNegativeInt = Field(30, description="full-batch epochs of the autoencoder alone")
    pretrain_learning_rate: Positive = 1e-4
    kl_weight: NonNegative = Field(1e-3, description="weight of the KL term (encoder: variational)")
    reconstruction_weight: Positive = Field(1.0, description="weight of the reconstruction term (decoder: joint)")

    @model_validator(mode="after")
    def _every_worker_has_a_sequence(self) -> TrainConfig:
        if self.n_workers > self.batch_size:
            raise ValueError(
                f"n_workers ({self.n_workers}) must not exceed batch_size ({self.batch_size}): a worker takes at least "
                "one sequence of each batch"
            )
        return self


class EvaluationConfig(_Section):
    """What is hidden and how it is scored."""

    protocol: Literal["heldout_genes", "published"] = "heldout_genes"
    min_spot_fraction: Share = Field(0.05, description="genes detected in fewer of the spots are counted, not scored")
    hidden_fraction: Fraction = Field(0.3, description="share of the non-zeros hidden (protocol: published)")


class RuntimeConfig(_Section):
    """Where and how it runs. Not part of the fingerprint: it changes numbers by no more than the order of sums does,
    except for the masks of dropout."""

    device: Literal["cpu", "cuda"] = "cpu"
    attention: Literal["sdpa", "flex"] = Field("sdpa", description="mask as a boolean tensor, or FlexAttention blocks")
    n_threads: PositiveInt = Field(1, description="CPU threads of each worker")
    micro_batches: PositiveInt = Field(
        1,
        description="pieces each worker computes its share of a batch in: less memory, the same gradient except for "
        "dropout, whose masks are drawn piece by piece",
    )
    compile: bool = Field(False, description="torch.compile the transformer's blocks; the first epoch pays for it")

    @model_validator(mode="after")
    def _flex_can_train(self) -> RuntimeConfig:
        if self.attention == "flex" and self.device != "cuda":
            raise ValueError("attention = flex needs device = cuda: FlexAttention has no gradients on a CPU; use sdpa")
        return self


class Config(_Section):
    """One trial's hyper-parameters. Unknown keys are refused with the closest valid name."""

    method: Annotated[str, Field(min_length=1)] = Field(CAUSALGED, description="causalged, a baseline or MODULE:CLASS")
    seed: NonNegativeInt = 0
    data: DataConfig = DataConfig()
    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    ar: ARConfig = ARConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    sampling: SamplingConfig = SamplingConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _fields_agree(self) -> Config:
        if self.ar.token_order in ("granger", "graph", "graph_reversed") and self.model.tokens == "latent":
            raise ValueError(f"ar.token_order = {self.ar.token_order} orders genes; it needs model.tokens = gene")
        if self.sampling.estimate == "posterior_mean" and self.diffusion.prediction_type == "noise":
            raise ValueError(
                "sampling.estimate = posterior_mean needs diffusion.prediction_type = x_start or v: from pure noise a "
                "noise predictor does not determine x_start; use sampling.estimate = draws"
            )
        if self.sampling.estimate == "center" and self.model.center == "none":
            raise ValueError("sampling.estimate = center needs model.center = ridge: with none there is no centre")
        if self.sampling.estimate == "draws" and self.sampling.n_samples < 1:
            raise ValueError("sampling.estimate = draws needs sampling.n_samples >= 1")
        if self.sampling.guidance != 1 and not self.train.condition_drop:
            raise ValueError(
                f"sampling.guidance = {self.sampling.guidance} needs train.condition_drop above 0: a model that was "
                "never trained without its condition cannot predict without it"
            )
        n_steps, n_timesteps = self.sampling.n_steps, self.diffusion.n_timesteps
        if n_steps >= n_timesteps:
            raise ValueError(f"sampling.n_steps ({n_steps}) must be below diffusion.n_timesteps ({n_timesteps})")
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "configuration") -> Config:
        """Validate a nested mapping. Raises ConfigError naming `source` and every wrong field."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(f"{source}: " + "; ".join(_explain(e) for e in error.errors())) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a YAML file. Raises ConfigError for a missing file, malformed YAML or a wrong field."""
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"no configuration file at {path}") from None
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"{path} is not a readable YAML file: {error}") from None
        if values is not None and not isinstance(values, dict):
            raise ConfigError(f"{path}: expected sections such as 'model:' and 'train:', found {type(values).__name__}")
        return cls.from_dict(values or {}, source=str(path))

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with dotted paths set, e.g. `{"ar.decay": 0.7}`. Raises ConfigError for a wrong path or value."""
        tree = self.model_dump(mode="json")
        known = _flatten(tree)
        for path, value in values.items():
            if path not in known:
                raise ConfigError(f"no field '{path}' in the configuration; {closest(path, known)}")
            *sections, field = path.split(".")
            node = tree
            for section in sections:
                node = node[section]
            node[field] = value
        return Config.from_dict(tree, source=", ".join(f"{p}={v}" for p, v in values.items()) or "configuration")

    def flatten(self) -> dict[str, Any]:
        """Dotted path -> value, e.g. for experiment trackers."""
        return _flatten(self.model_dump(mode="json"))

    def flatten_used(self) -> dict[str, Any]:
        """Dotted path -> value of what the method reads."""
        return _flatten(self._dump_used())

    def _dump_used(self, exclude: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """All values, or for a baseline those that are not CausalGeD's own."""
        include = None if self.method == CAUSALGED else set(_COMMON)
        return self.model_dump(mode="json", include=include, exclude=exclude)

    def fingerprint(self, *parts: str) -> str:
        """16 hex digits naming this configuration together with `parts` (data hash, split hash, code version).

        What `says_where` is left out: where a trial runs is not what it computes. So is what the method does not read.
        """
        return _digest([self._dump_used(exclude={"runtime": True, "train": {"n_workers": True}}), *parts])

    def fingerprint_section(self, section: str) -> str:
        """16 hex digits naming one section, e.g. `data`: trials that agree in it share what follows from it alone."""
        return _digest(getattr(self, section).model_dump(mode="json"))


def says_where(path: str) -> bool:
    """Whether a field says where and how a trial runs, not what it computes: it is not part of the fingerprint."""
    return path.startswith("runtime.") or path == "train.n_workers"


def _digest(values: object) -> str:
    payload = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(payload.encode()).hexdigest()[:16]


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        flat.update(_flatten(value, f"{path}.") if isinstance(value, dict) else {path: value})
    return flat


def field_paths() -> list[str]:
    """Every settable dotted path."""
    return list(_flatten(Config().model_dump(mode="json")))


def _explain(error: Any) -> str:
    location, paths = [str(part) for part in error["loc"]], field_paths()
    if error["type"] == "extra_forbidden":
        section = "".join(f"{part}." for part in location[:-1])
        valid = {path.removeprefix(section).partition(".")[0] for path in paths if path.startswith(section)}
        return f"unknown field '{'.'.join(location)}'; {closest(location[-1], valid)}"
    known = {part for path in paths for part in path.split(".")}  # pydantic also names which type of a union failed
    where = ".".join(part for part in location if part in known) or "configuration"
    found = "" if isinstance(error["input"], dict | BaseModel) else f", found {error['input']!r}"
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{found}"
