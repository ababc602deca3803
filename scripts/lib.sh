# shellcheck shell=bash
# For the other scripts, which source it: finds the seqattn command, in the .venv of the checkout or
# else on the path. `seqattn ...` runs it; `exec "$seqattn_command" ...` hands the process over to
# it, so that a signal to the script reaches it.
#
# Also sets $root, the folder of the checkout.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
seqattn_command=$root/.venv/bin/seqattn
if [[ ! -x $seqattn_command ]]; then
    seqattn_command=$(type -P seqattn) || {
        echo "${0##*/}: seqattn is not installed; run 'make setup' first" >&2
        exit 1
    }
fi

seqattn() { "$seqattn_command" "$@"; }
