#!/usr/bin/env bash
# Your own parallel corpus, two text files of any languages, to a data-bin:
#
#   scripts/prepare_corpus.sh corpus.de corpus.en --source-lang de --target-lang en --to data/mine
#
# "scripts/prepare_corpus.sh -h" explains all options: sentencepiece, valid and test files, ...
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

exec "$seqattn_command" prepare-corpus "$@"
