#!/usr/bin/env bash
# IWSLT15 English-Vietnamese from the Stanford files, as the PRIME (MUSE) recipe prepares it:
#
#   scripts/prepare_iwslt15.sh [--from DIR] [--to DIR] [--workers N]
#       [--joined-dictionary|--separate-dictionaries]
#
# "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

exec "$seqattn_command" prepare iwslt15_en_vi "$@"
