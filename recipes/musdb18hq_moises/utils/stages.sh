# shellcheck shell=bash disable=SC2154
# Sourced by a run.sh after parse_options.sh: checks of options, stages, and scripts that hear of signals.

must_match() {
  if [[ ! ${!1} =~ ^($2)$ ]]; then
    echo "$0: --$1 is '${!1}', not $3; see $0 --help" >&2
    exit 1
  fi
}

# Paths on the command line are those of the caller, who stands in $caller.
from_caller() {
  local name value
  for name in "$@"; do
    value=${!name}
    [[ -z $value || $value = /* ]] || printf -v "$name" '%s' "$caller/$value"
  done
}

require_python() {
  [[ $python_path != */* || $python_path = /* ]] || python_path=$caller/$python_path
  if ! "$python_path" -c 'import apollo_plugin' 2>/dev/null; then
    echo "$0: '$python_path' has no apollo_plugin; activate its environment or pass --python_path" >&2
    exit 1
  fi
}

# A script of a stage, which hears of signals that are sent to this one: bash alone would end and
# leave it running. In a group of its own, so that the keyboard's interrupt comes from here too.
child=
ended=
run_script() {
  local status
  set -m
  "$python_path" "$@" &
  child=$!
  set +m
  while :; do
    status=0
    wait "$child" || status=$?
    kill -0 "$child" 2>/dev/null || break
  done
  child=
  [ -z "$ended" ] || exit "$ended"
  return "$status"
}
for signal in TERM INT HUP USR1 USR2; do
  # shellcheck disable=SC2064
  trap "ended=$((128 + $(kill -l "$signal"))); kill -s $signal \$child 2>/dev/null || exit \$ended" "$signal"
done

due() { [ "$stage" -le "$1" ] && [ "$stop_stage" -ge "$1" ]; }
say() { echo "Stage $1: $2"; }
