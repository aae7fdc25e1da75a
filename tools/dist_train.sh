#!/usr/bin/env bash
# Train on several processes of one machine: tools/dist_train.sh CONFIG NUM_PROCESSES [options of train.py]
# NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT describe more machines.
set -euo pipefail
[ $# -ge 2 ] || { sed -n 2,3p "$0" >&2; exit 2; }
config=$1 processes=$2
shift 2
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "$@"
