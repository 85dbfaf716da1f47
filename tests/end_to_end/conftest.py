"""Running the command as a user does: a process of its own, from a folder that is not the checkout."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tune" / "run_ablation.py"

# small enough for seconds, large enough that levels differ
TINY = """
data: {min_genes_per_spot: 1}
model: {width: 16, depth: 1, latent_dim: 8, hidden_dim: 16, n_heads: 2}
diffusion: {n_timesteps: 50}
sampling: {n_samples: 1, n_steps: 3, n_ensemble: 1}
train: {epochs: 4, steps_per_epoch: 2, batch_size: 4, panel_size: 16, pretrain_epochs: 2, patience: 10}
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def command(tiny_config, tmp_path_factory):
    """Command line with the tiny configuration and the given arguments."""

    def build(*arguments):
        return [sys.executable, str(SCRIPT), "--config", str(tiny_config), *map(str, arguments)]

    return build


@pytest.fixture(scope="session")
def run(command, tmp_path_factory):
    """Run the command to its end."""
    folder = tmp_path_factory.mktemp("elsewhere")

    def call(*arguments):
        return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, timeout=600)

    return call
