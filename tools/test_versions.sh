#!/usr/bin/env bash
# Run the version tests on other versions of what this builds on: tools/test_versions.sh [NAME...]
#
# A name is a folder in requirements/versions, whose files go before those in requirements/, or
# `pinned`: requirements/ as it is. Without a name, all of them in turn. python.txt there says which
# Python (else python3); it is looked for in PATH. Each set of versions gets an environment of its
# own from tools/setup_env.sh, where the tests run that need nothing it leaves out.
# A line for each set tells the outcome, the versions and the counts. It is also added to
# ENVIRONMENTS/results.txt, next to the logs; ENVIRONMENTS is a folder (.versions). The environments
# are removed again unless KEEP is set. The exit status is 1 unless all sets passed.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
mkdir -p "${ENVIRONMENTS:=.versions}"
ENVIRONMENTS=$(cd "$ENVIRONMENTS" && pwd)
export OMP_NUM_THREADS=1

# What needs torch and mmengine alone: the contract of every backbone, the layers, and what of
# mmengine's and torch's own checkpoints depends on their versions.
ALONE=(
    tests/test_contract.py
    tests/test_layers.py
    tests/test_checkpoint.py::test_mmengine_reads_the_checkpoints_of_its_own_runner
    tests/test_checkpoint.py::test_importing_the_package_registers_the_list
    tests/test_checkpoint.py::test_everything_on_the_list_comes_back
    tests/test_checkpoint.py::test_code_runs_only_when_that_is_asked_for
    tests/test_checkpoint.py::test_a_model_around_the_backbone_initialises_it
)
# What meets the frameworks: their bases, registries, models, hooks and tools.
FRAMEWORKS=(
    tests/test_configs.py::test_its_pipelines_can_be_built_and_our_hooks_are_on
    tests/test_inheritance.py::test_inherited_by_name_every_type_of_a_config_is_found
    tests/test_layer_decay.py::test_a_detector_of_mmdet_trains_with_it
    tests/test_cli.py::test_training_writes_checkpoints_of_the_small_model
    tests/test_cli.py::test_resume_goes_on_where_training_stopped
    tests/test_cli.py::test_testing_prints_metrics_and_draws_images
    tests/test_cli.py::test_inference_writes_images_and_coco_json
    tests/test_cli.py::test_a_segmentor_trains_and_infers_with_the_same_commands
    tests/test_doctor.py::test_doctor_finds_nothing_to_mend_here
)

# Of these the small network of each backbone and the default config of each pair of backbone and
# head, the names without a variant; and nothing that starts processes of its own to train.
ONLY='not ViT- and not two_processes'

names=("$@")
if [[ $# -eq 0 ]]; then
    names=(pinned)
    for folder in requirements/versions/*/; do names+=("$(basename "$folder")"); done
fi

installed_versions() {
    "$1" -c 'import platform; print("Python", platform.python_version(), end="")'
    "$1" -m pip list --format freeze 2>/dev/null |
        grep -E '^(torch|numpy|(onedl-)?mm(engine|cv|det|detection|segmentation))==' |
        while IFS= read -r line; do printf ', %s' "${line/==/ }"; done
}

# run_set NAME: sets `outcome` and `details`.
run_set() {
    local folder=requirements/versions/$1 log=$ENVIRONMENTS/$1 tests=("${ALONE[@]}")
    [[ $1 == pinned ]] && folder=requirements
    [[ -d $folder ]] || { outcome='unknown'; details="there is no $folder"; return; }
    export VERSIONS=$folder VENV=$log.venv PYTHON=python3
    [[ -f $folder/python.txt ]] && PYTHON=python$(<"$folder/python.txt")
    if ! tools/setup_env.sh test >"$log.setup.log" 2>&1; then
        outcome='not installable'
        details="$(tail -n 2 "$log.setup.log" | head -n 1) ($log.setup.log)"
        return
    fi
    # The stamp of the step that installs the frameworks.
    [[ -f $VENV/.setup/openmmlab ]] && tests+=("${FRAMEWORKS[@]}")
    outcome=failed
    "$VENV/bin/python" -m pytest -p no:cacheprovider -k "$ONLY" "${tests[@]}" \
        >"$log.tests.log" 2>&1 &&
        outcome=passed
    details="$(tail -n 1 "$log.tests.log"); $(installed_versions "$VENV/bin/python")"
}

status=0
for name in "${names[@]}"; do
    run_set "$name"
    [[ $outcome == passed ]] || status=1
    printf '%s: %s: %s\n' "$name" "$outcome" "$details" | tee -a "$ENVIRONMENTS/results.txt"
    [[ -n ${KEEP:-} ]] || rm -rf "$ENVIRONMENTS/$name.venv"
done
exit "$status"
