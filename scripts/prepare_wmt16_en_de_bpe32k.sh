#!/usr/bin/env bash
# WMT16 English-German with 32,000 joint BPE merges, the data of "Scaling NMT" (Ott et al. 2018):
#
#   scripts/prepare_wmt16_en_de_bpe32k.sh [en_de|de_en] [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# The direction is en_de unless it is named. The ready archive wmt16_en_de.tar.gz, which is not
# offered any more, is used where it lies in DIR; without it the text is made from the raw files,
# as Google's script made it. "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
prepare_pair wmt16_PAIR_bpe32k en_de "$@"
