#!/usr/bin/env bash
# WMT14 English-French, as fairseq's prepare-wmt14en2fr.sh prepares it:
#
#   scripts/prepare_wmt14_en_fr.sh [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# With --joined-dictionary the result is data-bin.joined, for models that share all embeddings.
# "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

exec "$seqattn_command" prepare wmt14_en_fr "$@"
