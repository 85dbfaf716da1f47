# What commands on every node of a cluster run in; sourced by the login shell (cluster/node_setup.sh sees to that).
if [ -f ~/causalged.env ]; then set -a; . ~/causalged.env; set +a; fi
# may hold a password, which the MLflow server alone needs (mlflow_server.sh): neither the driver nor Ray gets it
unset CGD_MLFLOW_STORE
export PATH="$HOME/venv/bin:$HOME/.local/bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=true
# the server on the head, where the driver runs: no other node writes to it
export MLFLOW_TRACKING_URI="${MLFLOW_TRACKING_URI:-http://127.0.0.1:5000}"
