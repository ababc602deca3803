#!/usr/bin/env bash
# IWSLT14 German-English, as fairseq's prepare-iwslt14.sh prepares it:
#
#   scripts/prepare_iwslt14.sh [de_en|en_de] [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# The direction is de_en unless it is named. "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
prepare_pair iwslt14_PAIR de_en "$@"
