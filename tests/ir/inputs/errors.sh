#!/usr/bin/env bash
# errors.sh MOEC FILE: the messages of many small wrong texts. FILE is a beginning that all have in common, up to the line
# "#----", then cases: lines of text, ended by the message that `moec opt` must give:
#   #= MESSAGE   at the last line of the case        #! MESSAGE   about the text as a whole (the verifier's)
set -u
moec=$1
beginning=$(sed '/^#----/q' "$2")
status=0 text=""
while IFS= read -r line; do
  case $line in
  '#='* | '#!'*)
    number=$(printf '%s\n%s' "$beginning" "$text" | wc -l)
    expected="<stdin>:$number: ${line#'#= '}"
    [ "${line:1:1}" = '!' ] && expected="<stdin>: ${line#'#! '}"
    found=$(printf '%s\n%s' "$beginning" "$text" | "$moec" opt - 2>&1 >/dev/null)
    code=$?
    if [ "$found" != "$expected" ] || [ $code -ne 1 ]; then
      printf 'text:\n%sexpected: %s\nfound (exit code %d): %s\n' "$text" "$expected" "$code" "$found"
      status=1
    fi
    text=""
    ;;
  *) text+=$line$'\n' ;;
  esac
done < <(sed '1,/^#----/d' "$2")
exit $status
