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
prepare_pair multi30k_PAIR en_de "$@"
