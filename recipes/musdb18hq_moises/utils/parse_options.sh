# shellcheck shell=bash disable=SC2154
# Sourced by run.sh below its options: every variable that is set there can be set on the command
# line, --name value or --name=value; dashes in names count as underscores. Kaldi's convention.

while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help)
      printf '%s\n' "$help_message"
      exit 0
      ;;
    --*)
      option=${1#--}
      case "$option" in
        *=*)
          value=${option#*=}
          option=${option%%=*}
          shift
          ;;
        *)
          if [ $# -lt 2 ]; then
            echo "$0: --$option needs a value" >&2
            exit 1
          fi
          value=$2
          shift 2
          ;;
      esac
      option=${option//-/_}
      # Only names that run.sh lists: no other variable of the shell can be set from outside.
      case " $options " in
        *" $option "*) printf -v "$option" '%s' "$value" ;;
        *)
          echo "$0: unknown option --$option; see $0 --help" >&2
          exit 1
          ;;
      esac
      ;;
    *)
      echo "$0: unexpected argument '$1'; see $0 --help" >&2
      exit 1
      ;;
  esac
done
