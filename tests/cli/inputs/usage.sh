#!/usr/bin/env bash
# usage.sh MOEC FILE: the messages of wrong command lines. FILE has lines "words" and, behind each, "#= CODE MESSAGE":
# the exit code and the first line on standard error that the words must give (up to " ..." where MESSAGE ends so). With
# exit code 1 it is the only line. Nothing may come on standard output.
set -u
moec=$1
status=0 words=""
while IFS= read -r line; do
  case $line in
  '#= '*)
    expected=${line#'#= '}
    read -r -a list <<<"${words//INPUTS/$(dirname "$0")}"
    out=$("$moec" "${list[@]}" 2>usage.err)
    found="$? $(head -1 usage.err)" found=${found//$(dirname "$0")/INPUTS}
    [ "${expected% ...}" != "$expected" ] && found=${found:0:${#expected}-4} expected=${expected% ...}
    [ "${expected%% *}" = 1 ] && [ "$(wc -l <usage.err)" != 1 ] && found="not one line: $(cat usage.err)"
    if [ "$found" != "$expected" ] || [ -n "$out" ]; then
      printf 'words: %s\nexpected: %s\nfound: %s\noutput: %s\n' "$words" "$expected" "$found" "$out"
      status=1
    fi
    ;;
  '#'*) ;;
  *) words=$line ;;
  esac
done <"$2"
exit $status
