#!/usr/bin/env bash
# The measurements of docs/benchmarks.md but for its cost cards, one folder each: twenty minutes.
#
# bash docs/examples/benchmarks.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHONPATH=$PWD OMP_NUM_THREADS=2
out=${1:-work_dirs/benchmarks}
benchmark=(python tools/benchmark.py --threads 2)
alone=('out_indices=[2]' 'taps=[11]') # SuperViT without its pyramid

for way in isolate together; do # each in a process of its own, and all in one
    flag=$([ $way = together ] || echo --isolate)
    "${benchmark[@]}" $flag --peers mmdet:swin-t --archs sepvit:tiny gcvit:tiny casvit:t shvit:s4 \
        --sizes 512x512 800x1216 --rounds 15 --out-dir "$out/swin_$way"
    "${benchmark[@]}" $flag --peers mmdet:swin-t --archs supervit:deit_s \
        --arch-options "${alone[@]}" --sizes 512x512 800x1216 --rounds 15 \
        --out-dir "$out/swin_supervit_$way"
done
"${benchmark[@]}" --mode train --peers mmdet:swin-t --archs sepvit:tiny gcvit:tiny casvit:t shvit:s4 \
    --rounds 5 --out-dir "$out/train"
timm=(python docs/examples/benchmark_with_timm.py)
for way in isolate together; do
    flag=$([ $way = together ] || echo --isolate)
    "${timm[@]}" $flag --threads 2 --peers timm:gcvit_tiny --archs gcvit:tiny --arch-options \
        'window_size=[7,7,14,7]' --sizes 224 --rounds 51 --out-dir "$out/timm_gcvit_$way"
    "${timm[@]}" $flag --threads 2 --peers timm:shvit_s4 --archs shvit:s4 --sizes 256 --rounds 101 \
        --out-dir "$out/timm_shvit_$way"
done
"${timm[@]}" --threads 1 --batch 8 --peers timm:gcvit_tiny --archs gcvit:tiny \
    --arch-options 'window_size=[7,7,14,7]' --sizes 224 --rounds 9 --out-dir "$out/timm_gcvit8"
"${timm[@]}" --threads 1 --batch 8 --peers timm:shvit_s4 --archs shvit:s4 --sizes 256 --rounds 31 \
    --out-dir "$out/timm_shvit8"
"${timm[@]}" --threads 1 --batch 16 --peers timm:mobilevitv2_100 --archs shvit:s4+deploy --sizes 256 \
    --rounds 9 --out-dir "$out/mobilevit"
compiled() { # NETWORK SIZE FOLDER [OPTION...]; in one run a second size would get a graph for all
    "${benchmark[@]}" --archs "$1" "$1+compile" --sizes "$2" --rounds 15 --out-dir "$out/$3" "${@:4}"
}
compiled sepvit:tiny 512x512 compile_sepvit
compiled sepvit:tiny 224 compile_small_sepvit
compiled gcvit:tiny 512x512 compile_gcvit
compiled gcvit:tiny 224 compile_small_gcvit --arch-options 'window_size=[7,7,14,7]'
compiled casvit:t 512x512 compile_casvit
compiled casvit:t 224 compile_small_casvit
compiled shvit:s4 512x512 compile_shvit
compiled shvit:s4 256 compile_small_shvit
compiled supervit:deit_s 512x512 compile_supervit --arch-options "${alone[@]}"
compiled supervit:deit_s 224 compile_small_supervit --arch-options "${alone[@]}"
for arch in casvit:t shvit:s4; do # the size of its classifier, and one of detectors
    size=$([ $arch = casvit:t ] && echo 224 || echo 256)
    "${benchmark[@]}" --archs $arch $arch+deploy --sizes $size 512x512 --rounds 31 \
        --out-dir "$out/deploy_${arch%:*}"
done
python docs/examples/training_memory.py
