#!/bin/bash
# Starts a Ray over the nodes of a Slurm allocation and runs a search in it. The nodes need share no folder.
#
#   sbatch --nodes=4 --gpus-per-node=2 deploy/slurm/ray.sh hyperopt=combined budget=prod
#   sbatch --nodes=4 deploy/slurm/ray.sh --resume multirun/NAME
#
# Type it in the project's folder. Whatever follows the script's name goes to launch.py; "--resume STUDY" goes on with a
# study instead. In the environment:
#
#   PYTHON=/path/to/bin/python   the same on every node; .venv/bin/python of this folder unless it is given
#   DRY_RUN=1                    prints the commands instead of running them
#SBATCH --job-name=mistral-ner
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --signal=B:USR1@120
#SBATCH --output=mistral-ner-%j.log
set -euo pipefail

fail() {
    echo "error: $1; fix: $2" >&2
    exit 1
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "deploy/slurm/ray.sh runs in a job of Slurm" "sbatch --nodes=2 deploy/slurm/ray.sh $*"
if [ "${1:-}" = --resume ] && [ $# -ne 2 ]; then
    fail "--resume takes the folder of a study and nothing else, found $(($# - 1)) words after it" "--resume multirun/NAME"
fi

PYTHON=${PYTHON:-.venv/bin/python}
RAY=${RAY:-$(dirname "$PYTHON")/ray}
PORT=${PORT:-$((20000 + SLURM_JOB_ID % 20000))} # two jobs may share a node
CPUS=${SLURM_CPUS_PER_TASK:-1}
export RAY_TMPDIR=${RAY_TMPDIR:-/tmp} # the name of TMPDIR may be too long for Ray's sockets
if [ -z "${RAY_AUTH_MODE:-}" ]; then # others on these nodes cannot use this Ray, whatever token their home has
    RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
fi

run() {
    if [ -n "${DRY_RUN:-}" ]; then printf '%s\n' "$*"; else "$@"; fi
}

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
[ ${#nodes[@]} -gt 0 ] || fail "scontrol does not say which nodes this job has" "a PATH that leads to Slurm's commands"
head=${nodes[0]}
address=$head:$PORT
one=(--nodes=1 --ntasks=1 --overlap "--cpus-per-task=$CPUS") # a step does not inherit the CPUs
if [ -n "${SLURM_GPUS_PER_NODE:-}" ]; then one+=("--gpus-per-node=$SLURM_GPUS_PER_NODE"); fi

# every Ray ends with this script, however that ends
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT

run srun "${one[@]}" --nodelist="$head" \
    "$RAY" start --block --head --port="$PORT" --num-cpus="$CPUS" --include-dashboard=false --disable-usage-stats &
started=$!
[ -n "${DRY_RUN:-}" ] || for _ in $(seq 120); do
    "$PYTHON" -c "import socket; socket.create_connection(('$head', $PORT), 1)" 2>/dev/null && break
    kill -0 "$started" 2>/dev/null || fail "Ray did not start on $head" "what srun and Ray say above"
    sleep 1
done
for node in "${nodes[@]:1}"; do
    run srun "${one[@]}" --nodelist="$node" \
        "$RAY" start --block --address="$address" --num-cpus="$CPUS" --disable-usage-stats &
done

# The search runs on the first node, where this script runs. USR1, two minutes before the time is over, ends it in
# order: the same study goes on in the next job.
if [ "${1:-}" = --resume ]; then
    search=("$PYTHON" -m mistral_ner.hyperopt.resume "$2" --ray-address "$address")
else
    search=("$PYTHON" launch.py -m "$@" "hyperopt.ray_address=$address")
fi
run "${search[@]}" &
driver=$!
trap 'kill -USR1 "$driver"' USR1
while kill -0 "$driver" 2>/dev/null; do wait "$driver" && code=0 || code=$?; done
exit "${code:-0}"
