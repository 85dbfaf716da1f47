"""How studies are run: Ray Tune, MLflow tracking and the command line. Ray's own package is `ray.tune`."""
