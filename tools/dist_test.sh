#!/usr/bin/env bash
# Test on several processes of one machine: tools/dist_test.sh CONFIG CHECKPOINT NUM_PROCESSES [options of test.py]
# NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT describe more machines.
set -euo pipefail
[ $# -ge 3 ] || { sed -n 2,3p "$0" >&2; exit 2; }
config=$1 checkpoint=$2 processes=$3
shift 3
exec python -m torch.distributed.run \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
    --nproc_per_node="$processes" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "$@"
