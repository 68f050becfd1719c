"""The sweep as a Slurm array script: a task a run, which resumes as a Ray task does."""

from __future__ import annotations

import math
import os
import sys

from iris_fast.errors import quoted

from .plan import Plan

WARNING_SECONDS = 300  # before the time limit: enough for a step and the checkpoint

SCRIPT = """\
#!/bin/bash
# {count} runs; `sbatch` this file. Runs that are done are skipped, others go on from their folders, so the same file
# can be submitted again. Options of sbatch, such as --time, --partition or --array=0-9%4, can be given beside it.
#SBATCH --job-name=iris_sweep
#SBATCH --array=0-{last}
#SBATCH --cpus-per-task={cpus}
{gpu}#SBATCH --output={output}/logs/slurm_%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{warning}

cd {folder} || exit 2
{command} --run "$SLURM_ARRAY_TASK_ID" &
run=$!
ended_by=0
# The run saves at these signals. Before the time limit comes USR1, and the task goes back into the queue.
trap 'ended_by=USR1; kill -USR1 "$run"' USR1
trap 'ended_by=TERM; kill -TERM "$run"' TERM
while wait "$run"; code=$?; kill -0 "$run" 2>/dev/null; do :; done
if [ "$ended_by" = USR1 ] && [ "$code" -ne 0 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit "$code"
"""


def script(plan: Plan) -> str:
    """The text of the script. A task has whole cores and a whole GPU, since Slurm shares out no less."""
    return SCRIPT.format(
        count=len(plan.runs),
        last=len(plan.runs) - 1,
        cpus=math.ceil(plan.cpus),
        gpu="#SBATCH --gres=gpu:1\n" if plan.gpus else "",
        output=plan.output,
        warning=WARNING_SECONDS,
        folder=quoted(os.getcwd()),
        command=quoted(sys.executable, "-m", "iris_fast.sweep", *_arguments(plan)),
    )


def _arguments(plan: Plan) -> list[str]:
    """The arguments that make the same list of runs."""
    first = plan.runs[0]
    games = ",".join(dict.fromkeys(run.game for run in plan.runs))
    seeds = list(dict.fromkeys(run.seed for run in plan.runs))
    row = seeds == list(range(seeds[0], seeds[-1] + 1))  # one seed too: `3-3`, since `3` is a number of them
    presets = dict.fromkeys(run.preset for run in plan.runs)
    options = {
        "--games": games,
        "--seeds": f"{seeds[0]}-{seeds[-1]}" if row else ",".join(map(str, seeds)),
        "--output": plan.output,
        "--episodes": first.episodes,
        "--cpus-per-run": f"{plan.cpus:g}",
        "--gpus-per-run": f"{plan.gpus:g}",
        "--retries": plan.retries,
    }
    if len(presets) == 1:  # otherwise each game has its default, by the game alone
        options["--preset"] = first.preset
    words = [str(word) for option in options.items() for word in option]
    return [*words, *(["--wandb"] if first.wandb else []), *first.overrides]
