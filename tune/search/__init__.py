"""A hyper-parameter search: Optuna through Ray Tune, on validation genes, confirmed before the test genes are seen."""
