#!/usr/bin/env bash
# A trained run to its scores: average, choose on the validation set, translate, score:
#
#   scripts/evaluate.sh RUN [--length-penalty X ...] [--comet PYTHON] [--json]
#
# The run's recipe says how; a step whose result is there is skipped. "seqattn evaluate -h" explains
# the options.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"
exec "$seqattn_command" evaluate "$@"
