# shellcheck shell=bash
# For the other scripts, which source it: finds the seqattn command, in the .venv of the checkout or
# else on the path. `exec "$seqattn_command" ...` hands the process over to it, so that a signal to
# the script reaches it.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
seqattn_command=$root/.venv/bin/seqattn
if [[ ! -x $seqattn_command ]]; then
    seqattn_command=$(type -P seqattn) || {
        echo "${0##*/}: seqattn is not installed; run 'make setup' first" >&2
        exit 1
    }
fi

# prepare_pair CORPUS PAIR [PAIR] [OPTION...]: prepares CORPUS with PAIR in its name replaced by the
# languages that the user names first, else by those given.
prepare_pair() {
    local corpus=$1 pair=$2
    shift 2
    if [[ $# -gt 0 && $1 != -* ]]; then
        pair=$1
        shift
    fi
    exec "$seqattn_command" prepare "${corpus/PAIR/$pair}" "$@"
}
