#!/usr/bin/env bash
# Trains a recipe on all GPUs of this node; the same command resumes:
#
#   scripts/train.sh multi30k_en_de variant=mega seed=2
#   scripts/train.sh experiment=wmt14_en_de/dynamicconv
#
# On several nodes, started on each of them:
#
#   NNODES=2 NODE_RANK=0 MASTER_ADDR=node-a MASTER_PORT=29500 scripts/train.sh ...
#
# "seqattn train -h" explains the options.
set -euo pipefail

# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

nodes=()
if [[ ${NNODES:-1} != 1 ]]; then
    for variable in NODE_RANK MASTER_ADDR MASTER_PORT; do
        if [[ -z ${!variable:-} ]]; then
            echo "train.sh: NNODES=$NNODES needs $variable, too" >&2
            exit 1
        fi
    done
    nodes=(--nnodes "$NNODES" --node-rank "$NODE_RANK" --rendezvous "$MASTER_ADDR:$MASTER_PORT")
fi
exec "$seqattn_command" train ${nodes[@]+"${nodes[@]}"} "$@"
