#!/usr/bin/env bash
# An experiment from raw text to a scored result:
#
#   scripts/reproduce.sh experiment=multi30k_en_de/softmax [--from DIR] [--dry-run]
#
# "seqattn reproduce -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
exec "$seqattn_command" reproduce "$@"
