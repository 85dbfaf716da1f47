"""What tests of the tracking store share."""

import pytest


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory):
    """A database with MLflow's tables, which take it seconds to create."""
    from mlflow import MlflowClient  # takes seconds, which most tests here need not wait

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
