#!/usr/bin/env bash
# From a clean clone to a trained EvoMoE GPT: installs what is missing, builds, takes the King James Bible from Debian's
# bible-kjv, tokenises it, compiles models/gpt_evomoe.lua at size=demo and trains it through shared, dense and Top-1.
# Prints held-out perplexity beside the unigram perplexity of the same split, experts per token, and a sample.
#   --build-only   stop after build/moec
set -euo pipefail
cd "$(dirname "$0")"
export OMP_WAIT_POLICY=passive
build_only=0
for argument in "$@"; do
  case "$argument" in
    --build-only) build_only=1 ;;
    *) echo "usage: ./demo.sh [--build-only]" >&2; exit 2 ;;
  esac
done

./install.sh build
cmake -G Ninja -S . -B build >/dev/null
cmake --build build --target moec
[ $build_only = 1 ] && exit 0

demo=build/demo
rm -rf "$demo"
mkdir -p "$demo"
bible -f 'Gen1:1-Rev22:21' </dev/null | sed -E 's/^[0-9A-Za-z]+:[0-9]+ //' >"$demo/bible.txt"
echo "text: $(wc -l <"$demo/bible.txt") verses, $(wc -c <"$demo/bible.txt") bytes"
build/moec data "$demo/bible.txt" -o "$demo/data" --tokenizer=spm:4000
build/moec build models/gpt_evomoe.lua -D size=demo -o "$demo/trainer"
start=$(date +%s)
"$demo/trainer" train --data "$demo/data" --out "$demo/run"
echo "training took $(($(date +%s) - start)) s"

echo
echo "experts per token, and loss at the start and at the end, of every phase:"
awk '/"ce":/ && !/"split":/ {
  match($0, /"phase": ?"[^"]*"/); phase = substr($0, RSTART, RLENGTH); gsub(/"phase": ?|"/, "", phase)
  match($0, /"loss": ?[-0-9.e+]*/); loss = substr($0, RSTART, RLENGTH); sub(/.*: ?/, "", loss)
  match($0, /"experts_per_token": ?[-0-9.e+]*/); experts = substr($0, RSTART, RLENGTH); sub(/.*: ?/, "", experts)
  if (!(phase in steps)) { order[++phases] = phase; first[phase] = experts }
  steps[phase]++; losses[phase, steps[phase]] = loss; last[phase] = experts
}
function mean(phase, from, to,    i, s) { for (i = from; i <= to; i++) s += losses[phase, i]; return s / (to - from + 1) }
END { for (i = 1; i <= phases; i++) { p = order[i]; n = steps[p]; w = n < 40 ? int(n / 2) : 20; if (w < 1) w = 1
  printf "  %-8s %5d steps  experts per token %.2f -> %.2f  loss %.3f -> %.3f\n", p, n, first[p], last[p], mean(p, 1, w), mean(p, n - w + 1, n) } }' \
  "$demo/run/metrics.jsonl"

echo
unigram=$(sed -E 's/.*"test":\{[^}]*"unigram_ppl":([0-9.]+).*/\1/' "$demo/data/meta.json")
held_out=$("$demo/trainer" eval --data "$demo/data" --checkpoint "$demo/run" --split test | sed -E 's/.*"ppl":([0-9.]+).*/\1/')
awk -v ppl="$held_out" -v unigram="$unigram" 'BEGIN {
  printf "held-out perplexity (test split): %.2f    unigram perplexity of the same split: %.2f    ratio %.3f\n", ppl, unigram, ppl / unigram }'
echo
echo "a sample:"
"$demo/trainer" sample --checkpoint "$demo/run" --prompt "And God said" -n 60
