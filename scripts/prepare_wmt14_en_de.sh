#!/usr/bin/env bash
# WMT English-German, as fairseq's prepare-wmt14en2de.sh prepares it:
#
#   scripts/prepare_wmt14_en_de.sh [--icml17] [--from DIR] [--to DIR] [--workers N]
#       [--final-dot old|new] [--joined-dictionary|--separate-dictionaries]
#
# With --icml17 the news commentary is that of WMT14 and the corpus is wmt14_en_de; without it, that
# of WMT17 and wmt17_en_de, as in that script. With --joined-dictionary the result is
# data-bin.joined, for models that share all embeddings. "seqattn prepare -h" explains the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

corpus=wmt17_en_de
arguments=()
for argument in "$@"; do
    if [[ $argument == --icml17 ]]; then
        corpus=wmt14_en_de
    else
        arguments+=("$argument")
    fi
done
exec "$seqattn_command" prepare "$corpus" ${arguments[@]+"${arguments[@]}"}
