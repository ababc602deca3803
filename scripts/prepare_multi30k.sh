#!/usr/bin/env bash
# Multi30k from its raw files to a data-bin in the published form:
#
#   scripts/prepare_multi30k.sh [en_de|en_fr] [--from DIR] [--to DIR] [--workers N]
#
# The pair is en_de unless it is named. "seqattn prepare -h" explains the options.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
pair=en_de
if [[ $# -gt 0 && $1 != -* ]]; then
    pair=$1
    shift
fi

seqattn=$root/.venv/bin/seqattn
if [[ ! -x $seqattn ]]; then
    seqattn=$(command -v seqattn) || {
        echo "prepare_multi30k.sh: seqattn is not installed; run 'make setup' first" >&2
        exit 1
    }
fi
exec "$seqattn" prepare "multi30k_$pair" "$@"
