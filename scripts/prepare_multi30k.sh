#!/usr/bin/env bash
# Multi30k from its raw files to a data-bin in the published form:
#
#   scripts/prepare_multi30k.sh [en_de|en_fr] [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# The pair is en_de unless it is named. "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

pair=en_de
if [[ $# -gt 0 && $1 != -* ]]; then
    pair=$1
    shift
fi
exec "$seqattn_command" prepare "multi30k_$pair" "$@"
