#!/usr/bin/env bash
# No file longer than 700 lines without a reason in its head (a line that says "Longer than 700 lines: ..."), no marks of unfinished work.
set -u
cd "$(dirname "$0")/../.."
status=0
while read -r lines file; do
  [ "$file" = total ] && continue
  if [ "$lines" -gt 700 ] && ! head -40 "$file" | grep -q 'Longer than 700 lines:'; then
    echo "$file: $lines lines"
    status=1
  fi
done < <(git ls-files '*.c' '*.h' '*.lua' '*.cc' '*.py' '*.sh' | xargs wc -l)
if git grep -nE 'TODO|FIXME|not implemented|unimplemented' -- '*.c' '*.h' '*.cc' '*.lua' '*.def' '*.sh' ':!tests/style/words.sh'; then
  echo "marks of unfinished work"
  status=1
fi
exit $status
