#!/bin/bash
# Starts a Ray over the nodes of a Slurm allocation and runs a search in it. The nodes need share no folder.
#
#   sbatch --nodes=4 --gpus-per-node=2 deploy/slurm/ray.sh hyperopt=combined budget=prod
#   sbatch --nodes=4 deploy/slurm/ray.sh --resume multirun/NAME
#
# Type it in the project's folder. Whatever follows the script's name goes to launch.py, and "--resume STUDY" goes on
# with a study. DRY_RUN=1 in the environment prints the commands instead of running them.
#SBATCH --job-name=mistral-ner
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@120
#SBATCH --output=mistral-ner-%j.log
set -euo pipefail

PYTHON=${PYTHON:-.venv/bin/python}
RAY=${RAY:-$(dirname "$PYTHON")/ray}
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))} # two jobs may share a node
CPUS=${SLURM_CPUS_PER_TASK:-1}
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp} # the name of TMPDIR may be too long for Ray's sockets

run() {
    if [ -n "${DRY_RUN:-}" ]; then printf '%s\n' "$*"; else "$@"; fi
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$head:$PORT
one=(--nodes=1 --ntasks=1 --overlap "--cpus-per-task=$CPUS") # a step does not inherit the CPUs
if [ -n "${SLURM_GPUS_PER_NODE:-}" ]; then one+=("--gpus-per-node=$SLURM_GPUS_PER_NODE"); fi

# every Ray ends with this script, however that ends
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

run srun "${one[@]}" --nodelist="$head" \
    "$RAY" start --block --head --port="$PORT" --num-cpus="$CPUS" --include-dashboard=false --disable-usage-stats &
[ -n "${DRY_RUN:-}" ] || for _ in $(seq 120); do
    "$PYTHON" -c "import socket; socket.create_connection(('$head', $PORT), 1)" 2>/dev/null && break
    sleep 1
done
for node in "${nodes[@]:1}"; do
    run srun "${one[@]}" --nodelist="$node" \
        "$RAY" start --block --address="$address" --num-cpus="$CPUS" --disable-usage-stats &
done

# The search runs on the first node, where this script runs. USR1, two minutes before the time is over, ends it in
# order: the same study goes on in the next job.
if [ "${1:-}" = --resume ]; then
    search=("$PYTHON" -m mistral_ner.hyperopt.resume "${2:?the study to go on with}" --ray-address "$address")
else
    search=("$PYTHON" launch.py -m "$@" "hyperopt.ray_address=$address")
fi
run "${search[@]}" &
driver=$!
trap 'kill -USR1 "$driver"' USR1
while kill -0 "$driver" 2>/dev/null; do wait "$driver" && code=0 || code=$?; done
exit "${code:-0}"
