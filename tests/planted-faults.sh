#!/usr/bin/env bash
# Do the tests of the store's promises notice where one is broken? Builds the daemon with faults that can be planted
# (src/storage/planted.rs), leaves out one protection at a time, and expects the test that is there for it to fail.
#
# bash tests/planted-faults.sh [FAULT...]        about ten minutes on 2 cores; needs what the fault harness needs

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/planted DATELINE_FAULTS=quick

# Each fault, and the test program and test that is to notice it.
readonly FAULTS="
no-fsync                 faults  power_cuts
acknowledge-early        faults  kills
publish-before-fsync     faults  slow_sync
checksum-unchecked       faults  damage
index-entry-left-out     faults  kills
sequence-check-ignored   daemon  older_files
last-frame-not-synced    faults  crash_images
stopped-machine-ignored  daemon  indexes_of_a_machine
"

cargo test --release --locked --features planted-faults --test faults --test daemon --no-run || exit 1
missed=0
while read -r fault program test; do
    [[ -n $fault ]] || continue
    [[ $# -eq 0 || " $* " == *" $fault "* ]] || continue
    log=$(mktemp)
    if DATELINE_PLANTED_FAULT=$fault cargo test --release --locked --features planted-faults --test "$program" -- "$test" </dev/null >"$log" 2>&1; then
        # An ignored test has noticed nothing either.
        echo "MISSED  $fault: $program $test passed"
        missed=1
    else
        echo "caught  $fault by $program $test: $(grep -m1 -iE 'wrong|lost|missing|panicked|disappeared|not refused|acknowledged' "$log" | cut -c1-160)"
    fi
    rm -f "$log"
done <<<"$FAULTS"
exit $missed
