#!/usr/bin/env bash
# Corpus, subwords, binarisation, training, averaging, translation, scoring and a picture of the
# attention, on a small corpus that the project generates itself. `make quickstart` runs it.
#
#   bash examples/quickstart/run.sh [FOLDER]     (default: runs/quickstart)
#
# A finished step is skipped, and an interrupted training goes on where it was. Delete FOLDER to
# start anew. OMP_NUM_THREADS sets the number of cores that the training uses (default: 2).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-runs/quickstart}
mkdir -p "$out/logs" "$out/done"
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
# Threads that wait asleep: where something else runs too, waiting busily costs a factor of ten.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

# step NAME TITLE COMMAND...: runs a shell function once; what it prints is kept in logs/NAME.log
step() {
  local name=$1 title=$2
  if [[ -e $out/done/$name ]]; then
    printf -- '-- %s: done before\n' "$title"
    return
  fi
  printf -- '-- %s\n' "$title"
  local start=$SECONDS
  "$name" || fail "$name"
  printf '   %d s\n' $((SECONDS - start))
  touch "$out/done/$name"
}

fail() {
  tail -n 15 "$out/logs/$1.log" >&2 || true
  printf 'quickstart: the step "%s" failed; its whole output is in %s\n' \
    "$1" "$out/logs/$1.log" >&2
  exit 1
}

corpus() {
  seqattn corpus --to "$out/text" >"$out/logs/corpus.log" 2>&1
}

pieces() {
  python "$here/segment.py" "$out/text" "$out/pieces" >"$out/logs/pieces.log" 2>&1
}

binarize() {
  rm -rf "$out/data-bin" # fairseq-preprocess refuses to overwrite what a killed run left
  fairseq-preprocess --user-dir "$user_dir" \
    --source-lang de --target-lang en --joined-dictionary \
    --trainpref "$out/pieces/train" --validpref "$out/pieces/valid" \
    --testpref "$out/pieces/test" --destdir "$out/data-bin" >"$out/logs/binarize.log" 2>&1 &&
    python "$here/segment.py" --describe "$out/data-bin" "$out/pieces/sentencepiece.model"
}

# Lines of fairseq's log worth watching, as they come (mawk would wait for a full buffer).
progress() {
  local line
  local inner=' train_inner .*epoch 0*([0-9]+).*[ ,]loss=([0-9.]+).* num_updates=([0-9]+)'
  local valid='valid on .* ppl ([0-9.]+)'
  while IFS= read -r line; do
    if [[ $line =~ $inner ]]; then
      printf '   epoch %s, update %s: loss %s\n' \
        "${BASH_REMATCH[1]}" "${BASH_REMATCH[3]}" "${BASH_REMATCH[2]}"
    elif [[ $line =~ $valid ]]; then
      printf '   validation: perplexity %s\n' "${BASH_REMATCH[1]}"
    fi
  done
}

train() {
  fairseq-train "$out/data-bin" --user-dir "$user_dir" --task seqattn_translation \
    --source-lang de --target-lang en \
    --arch seqattn_rela_g_tiny --share-all-embeddings --dropout 0.1 \
    --encoder-layers 2 --decoder-layers 2 \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --optimizer adam --adam-betas '(0.9, 0.98)' --clip-norm 1.0 \
    --lr 4e-3 --lr-scheduler inverse_sqrt --warmup-updates 200 \
    --max-tokens 2048 --max-epoch 6 --update-epoch-batch-itr True \
    --seed 1 --cpu --num-workers 1 \
    --save-dir "$out/checkpoints" --keep-last-epochs 3 \
    --log-format simple --log-interval 25 2>&1 | tee -a "$out/logs/train.log" | progress
}

mean() {
  seqattn average "$out/checkpoints" --last 3 \
    --output "$out/checkpoints/checkpoint_average.pt" >"$out/logs/mean.log" 2>&1
}

translate() {
  fairseq-generate "$out/data-bin" --user-dir "$user_dir" --task seqattn_translation \
    --path "$out/checkpoints/checkpoint_average.pt" --gen-subset test --beam 4 \
    --max-tokens 4096 --remove-bpe sentencepiece --cpu >"$out/logs/translate.log" 2>&1
}

picture() {
  seqattn attention --checkpoint "$out/checkpoints/checkpoint_average.pt" \
    --data "$out/data-bin" --text "Weil der Lehrer müde ist, macht er die Kellertür zu." \
    --output "$out/attention.png" >"$out/logs/picture.log" 2>&1
}

score() {
  seqattn score "$out/logs/translate.log" --ref "$out/text/test.en" --show 8 \
    2>"$out/logs/score.log" | tee "$out/score.txt"
}

user_dir=$(seqattn path 2>"$out/logs/path.log") || fail path

step corpus 'generating the corpus (21,000 German-English sentence pairs)'
step pieces 'learning and applying subwords (sentencepiece)'
step binarize 'building the dictionary and binarising (fairseq-preprocess)'
step train 'training a small ReLA model (fairseq-train)'
step mean 'averaging the last three epochs (seqattn average)'
step translate 'translating the test set (fairseq-generate)'
step picture 'drawing the cross-attention of one sentence (seqattn attention)'

printf -- '-- scores and some translations (seqattn score)\n'
score || fail score
printf 'attention: %s\nscores: %s\n%d s in all\n' "$out/attention.png" "$out/score.txt" "$SECONDS"
