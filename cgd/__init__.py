"""CausalGeD: predict spatial gene expression from single-cell RNA-seq, with the answer truly hidden.

Source of the method: Sadia, Ahamed, Cheng, CausalGeD, arXiv:2502.07751.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cgd.config import Config
    from cgd.data.pair import Pair, read_pair
    from cgd.estimator import CausalGeD
    from cgd.evaluation import evaluate

__all__ = ["CausalGeD", "Config", "Pair", "evaluate", "read_pair"]

_HOME = {
    "CausalGeD": "cgd.estimator",
    "Config": "cgd.config",
    "Pair": "cgd.data.pair",
    "evaluate": "cgd.evaluation",
    "read_pair": "cgd.data.pair",
    "__version__": "cgd.version",
}


def __getattr__(name: str) -> Any:
    # torch and anndata take seconds to import; `cgd.config` alone must not pay for them
    if name not in _HOME:
        raise AttributeError(f"module 'cgd' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)
