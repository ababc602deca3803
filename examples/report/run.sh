#!/usr/bin/env bash
# Five attention mechanisms on the quickstart's corpus, and one page that compares them.
#
#   bash examples/report/run.sh [FOLDER]     (default: runs/report)
#
# What is done is not done again, and an interrupted training goes on where it was.
# OMP_NUM_THREADS sets the number of cores that a training uses (default: 2).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

out=${1:-runs/report}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}

seqattn corpus --to "$out/text"
scripts/prepare_corpus.sh "$out/text/train.de" "$out/text/train.en" \
  --source-lang de --target-lang en --to "$out/data" --bpe sentencepiece --vocab-size 2000 \
  --valid "$out/text/valid.de" "$out/text/valid.en" --test "$out/text/test.de" "$out/text/test.en"

runs=()
for variant in softmax rela_g topk entmax15 luna; do
  run=$out/$variant
  seqattn train multi30k_en_de variant="$variant" hardware=cpu \
    task.data="'$out/data/data-bin'" task.source_lang=de task.target_lang=en \
    checkpoint.save_dir="'$run'" evaluation.subsets='[test]' evaluation.checkpoints=3 \
    model.encoder_layers=2 model.decoder_layers=2 model.dropout=0.1 batch.tokens=2048 \
    'optimization.lr=[0.004]' lr_scheduler.warmup_updates=200 optimization.clip_norm=1.0 \
    optimization.max_epoch=6 \
    criterion._name=seqattn_label_smoothed_cross_entropy +criterion.attention_statistics=true
  seqattn evaluate "$run" --cpu
  seqattn analyse "$run" --cpu --concatenate 1,2,4
  runs+=("$run")
done
seqattn report "${runs[@]}" --output "$out/report.html"
