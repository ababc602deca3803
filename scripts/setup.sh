#!/usr/bin/env bash
# Makes .venv and installs what is missing there; returns at once when everything is there.
#
#   scripts/setup.sh              do it
#   scripts/setup.sh --dry-run    say what it would do
#
#   PYTHON=python3.12             the interpreter (default: python3, else the newest supported)
#   TORCH_SPEC='torch==2.13.0'    the torch, as pip spells it (default: newest with an NVIDIA GPU)
#
# The order matters: built in isolation, fairseq downloads a second torch of several GB. So torch
# and the build tools come first, and what follows is built against them and may not replace them.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null

readonly VENV=.venv
readonly LOG=$VENV/setup.log
readonly LOCK=$VENV/setup.lock   # also the mark that this script made the folder
readonly BASE=$VENV/setup.base   # where and with which Python the environment was made
readonly STAMP=$VENV/setup.stamp # what was installed; absent while anything is missing
readonly CPU_TORCH='torch==2.13.0'
readonly BUILD_TOOLS=(cython numpy 'setuptools>=77' wheel)

say() { printf 'setup: %s\n' "$*"; }

die() {
  printf 'setup: error: %s\n' "$*" >&2
  exit 1
}

# probe PYTHON: its version, then whatever it lacks; nothing when it is no Python 3.
probe() {
  "$1" - 2>/dev/null <<'PY' || true
import importlib.util, os, sys, sysconfig
header = os.path.join(sysconfig.get_path("include"), "Python.h")
lacks = [name for name in ("ensurepip", "venv") if importlib.util.find_spec(name) is None]
lacks += [] if os.path.exists(header) else ["Python.h"]
print(".".join(map(str, sys.version_info[:3])), *lacks)
PY
}

# objection PYTHON VERSIONS...: why it does not serve; nothing when it does.
objection() {
  local python=$1 version lacks
  read -r version lacks <<<"$(probe "$python")"
  shift
  if [[ -z $version ]]; then
    echo "$python is missing or does not run"
  elif [[ " $* " != *" ${version%.*} "* ]]; then
    echo "$python is $version"
  elif [[ -n $lacks ]]; then
    echo "$python ($version) lacks $lacks (its -venv and -dev packages)"
  fi
}

# Sets `python`, and `version` of it, or explains what to install.
choose_python() {
  local candidate reason reasons=''
  if [[ -n ${PYTHON:-} ]]; then
    # Named by hand: newer ones than those tested are the caller's choice.
    reason=$(objection "$PYTHON" 3.{10..29})
    [[ -z $reason ]] || die "PYTHON=$PYTHON does not serve: $reason; needed is 3.10 or newer"
    python=$PYTHON
  else
    for candidate in python3 python3.{13..10}; do
      reason=$(objection "$candidate" 3.{10..13})
      [[ -n $reason ]] || break
      reasons+="; $reason"
    done
    [[ -z $reason ]] || die "no Python 3.10 to 3.13 found; install one, or name it:" \
      "make setup PYTHON=/path/to/python3.12 (looked at${reasons/;/:})"
    python=$candidate
  fi
  read -r version _ <<<"$(probe "$python")"
}

need_compiler() {
  local compiler
  for compiler in "${CXX:-c++}" g++ clang++; do
    ! command -v "$compiler" >/dev/null || return 0
  done
  die "no C++ compiler found (c++, g++ or clang++), and fairseq is compiled here; install one," \
    "for example the package g++, build-essential or gcc-c++"
}

# A torch that is there stays, unless TORCH_SPEC asks for another.
torch_spec() {
  if [[ -n ${TORCH_SPEC:-} ]]; then
    echo "$TORCH_SPEC"
  elif serves && [[ -n $(installed_torch) ]]; then
    echo torch
  elif [[ $(nvidia-smi -L 2>/dev/null) == GPU* ]]; then
    echo torch
  else
    echo "$CPU_TORCH"
  fi
}

installed_torch() {
  "$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' \
    2>/dev/null || true
}

# An environment holds absolute paths, so one that was moved or copied is as good as none.
base_text() { printf '%s\n' "$PWD" "Python $version"; }

serves() { base_text | cmp -s - "$BASE"; }

# stamp_text TORCH_SPEC
stamp_text() {
  cat "$BASE"
  printf '%s\n' "$1"
  cat pyproject.toml
}

is_complete() {
  local location base_version spec
  [[ -f $STAMP && -x $VENV/bin/python ]] || return 1
  { read -r location && read -r base_version && read -r spec; } <"$STAMP" || return 1
  [[ $location == "$PWD" ]] || return 1
  if [[ -n ${PYTHON:-} ]]; then
    read -r version _ <<<"$(probe "$PYTHON")"
    [[ $base_version == "Python $version" ]] || return 1
  fi
  stamp_text "${TORCH_SPEC:-$spec}" 2>/dev/null | cmp -s - "$STAMP"
}

# Waits for another call that is at work here, or for the pip that a killed call left behind.
take_lock() {
  if [[ -e $VENV && ! -e $LOCK ]]; then
    die "$VENV is there but was not made by make setup; move it away: mv $VENV $VENV.old"
  fi
  mkdir -p "$VENV"
  exec 9>>"$LOCK"
  "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null || {
    say "waiting for another setup to finish"
    "$python" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  }
}

make_environment() {
  if serves; then return; fi
  [[ ! -e $BASE ]] || say "removing the environment that was made elsewhere or otherwise"
  say "making $VENV with Python $version ($python)"
  find "$VENV" -mindepth 1 -maxdepth 1 ! -path "$LOCK" -exec rm -rf {} +
  "$python" -m venv "$VENV"
  base_text >"$BASE"
}

# pip writes INSTALLER last, so a package without it, or without one of its files, was being
# installed or removed when pip was killed; forgotten, it is installed again.
forget_broken_packages() {
  "$VENV/bin/python" - <<'PY'
import csv, shutil, sys
from importlib.metadata import distributions
from pathlib import Path

site = Path(next(path for path in sys.path if path.endswith("site-packages")))
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    names = [row[0] for row in csv.reader(record.open())] if record.exists() else [""]
    files = [site / name for name in names if not name.endswith(".pyc")]
    if not (info / "INSTALLER").exists() or not all(map(Path.exists, files)):
        print("setup: repairing", info.name)
        shutil.rmtree(info)
for leftover in site.glob("~*"):
    shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
PY
}

# Compiling and downloading are silent for minutes.
heartbeat() {
  while sleep 20 >/dev/null 2>&1; do
    kill -0 $$ 2>/dev/null || break
    echo "   ... still at work, $SECONDS s since the start"
  done
}

# install TITLE PIP_ARGUMENTS...: pip with its news on the screen and everything in the log.
install() {
  echo "== $1" | tee -a "$LOG"
  "$VENV/bin/python" -m pip install --no-input --progress-bar off "${@:2}" 2>&1 | tee -a "$LOG" |
    awk '/^ *(Downloading|Building|Installing|Successfully|ERROR)/ { print "   " $0; fflush() }' ||
    give_up "$1"
}

give_up() {
  printf '\nsetup: the end of %s:\n' "$LOG" >&2
  tail -n 15 "$LOG" >&2
  die "$1 failed (whole log: $LOG). Check network and disk space, then call again: what is" \
    "installed is kept. Another torch: make setup TORCH_SPEC='torch==X.Y.Z'"
}

install_everything() {
  local spec=$1 fairseq constraints=$VENV/constraints.txt
  fairseq=$(sed -n 's/^ *"\(fairseq-fixed[^"]*\)".*/\1/p' pyproject.toml)
  install "1/3 $spec and build tools" "$spec" "${BUILD_TOOLS[@]}"
  echo "torch==$(installed_torch)" >"$constraints"
  install "2/3 $fairseq (compiling it takes about two minutes)" \
    --no-build-isolation --constraint "$constraints" "$fairseq"
  install "3/3 seqattn_fairseq and the rest" \
    --no-build-isolation --constraint "$constraints" --editable '.[benchmark,dev,report,slurm]'
}

main() {
  local spec python version=''
  [[ $# -eq 0 || $* == --dry-run ]] || die "unknown argument '$*'; only --dry-run is known"
  if is_complete; then
    [[ $# -eq 0 ]] || say "$VENV is complete"
    return
  fi
  choose_python
  need_compiler
  if [[ $# -ne 0 ]]; then
    say "would make or complete $VENV with $python ($version) and $(torch_spec)"
    return
  fi
  take_lock
  if is_complete; then return; fi
  rm -f "$STAMP" "$LOG"
  make_environment
  forget_broken_packages
  spec=$(torch_spec)
  heartbeat 9>&- &
  # shellcheck disable=SC2064  # the heartbeat of now
  trap "kill $! 2>/dev/null || true" EXIT
  install_everything "$spec"
  stamp_text "$spec" >"$STAMP.new"
  mv "$STAMP.new" "$STAMP"
  say "$VENV is complete after $SECONDS s"
}

main "$@"
