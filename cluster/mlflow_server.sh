#!/usr/bin/env bash
# The MLflow server of a cluster, on its head: on loopback, over a database. Needs no systemd.
#
# Usage: mlflow_server.sh          start it, unless it runs
#        mlflow_server.sh stop     copy the database once more and end it; before `ray down`
#
# In ~/causalged.env:
#   CGD_BUCKET=NAME         artifacts go to s3://NAME/artifacts, a copy of the database to s3://NAME/mlflow every ten
#                           minutes; a new head starts from that copy. Without it both stay in ~/mlflow.
#   CGD_MLFLOW_STORE=URI    another database, such as postgresql://USER:PASSWORD@HOST/mlflow on RDS, which is not copied
#
# SQLite is enough, and one thing less to run and to pay: the driver alone writes, a batch of metrics per epoch and
# trial. WAL lets the pages of the UI be read meanwhile.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
# again, for what environment.sh keeps from every other process
if [ -f ~/causalged.env ]; then . ~/causalged.env; fi
export -n CGD_MLFLOW_STORE

home=~/mlflow
port="${CGD_MLFLOW_PORT:-5000}"
store="${CGD_MLFLOW_STORE:-sqlite:///$home/mlflow.db}"
artifacts="${CGD_BUCKET:+s3://$CGD_BUCKET/artifacts}"
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
mkdir -p "$home"

# a number alone may be that of another process by now, after a restart of the machine
runs() {
  local pid
  pid="$(cat "$home/$1.pid" 2>/dev/null)" && kill -0 "$pid" 2>/dev/null && grep -qs mlflow "/proc/$pid/cmdline"
}
end() { if runs "$1"; then kill -- "-$(cat "$home/$1.pid")"; fi; rm -f "$home/$1.pid"; }

# Nobody outside this machine reaches it: no authentication, no job runner, one process. Under gunicorn, as `make ui`
# does: MLflow then has no Assistant (SECURITY.md). The address, which may hold a password, is in no list of processes.
start_server() {
  MLFLOW_BACKEND_STORE_URI="$store" MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_SQLALCHEMYSTORE_POOL_SIZE=50 \
    MLFLOW_SERVER_ALLOWED_HOSTS="localhost,localhost:*,127.0.0.1,127.0.0.1:*" \
    setsid nohup mlflow server --host 127.0.0.1 --port "$port" --workers 1 --gunicorn-opts "--threads 4" \
    --artifacts-destination "${artifacts:-$home/artifacts}" >> "$home/server.log" 2>&1 < /dev/null &
  echo $! > "$home/server.pid"
  for _ in $(seq 240); do
    if curl -fsS "http://127.0.0.1:$port/health" >/dev/null 2>&1; then return 0; fi
    runs server || break
    sleep 0.5
  done
  echo "the MLflow server does not answer on port $port; the last lines of $home/server.log:" >&2
  tail -n 20 "$home/server.log" >&2
  return 1
}

start_copier() {
  setsid nohup python "$here/mlflow_copy.py" keep "$home/mlflow.db" >> "$home/copier.log" 2>&1 < /dev/null &
  echo $! > "$home/copier.pid"
}

if [ "${1:-}" = stop ]; then
  end copier
  end server
  if [ -z "${CGD_MLFLOW_STORE:-}" ]; then python "$here/mlflow_copy.py" save "$home/mlflow.db"; fi
  exit 0
fi
if runs server; then
  echo "the MLflow server runs already (pid $(cat "$home/server.pid"))"
else
  if [ -z "${CGD_MLFLOW_STORE:-}" ]; then python "$here/mlflow_copy.py" restore "$home/mlflow.db"; fi
  start_server
  echo "MLflow server: http://127.0.0.1:$port on this machine"
fi
if [ -z "${CGD_MLFLOW_STORE:-}" ] && [ -n "${CGD_BUCKET:-}" ] && ! runs copier; then start_copier; fi
