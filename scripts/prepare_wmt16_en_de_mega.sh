#!/usr/bin/env bash
# WMT16 English-German as Mega's prepare-wmt16en2de.sh prepares it:
#
#   scripts/prepare_wmt16_en_de_mega.sh [en_de|de_en] [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# The direction is en_de unless it is named. "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
prepare_pair wmt16_PAIR_mega en_de "$@"
